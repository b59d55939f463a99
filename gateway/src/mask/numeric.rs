//! A decimal number as `numeric` travels in binary (`numeric_send` in `utils/adt/numeric.c`):
//! number of digits, weight of the first, sign, scale, then digits to the base 10000.

/// Encodes `-12.50` and the like; `None` for what isn't a plain decimal number of up to 1000
/// digits.
pub(super) fn encode(text: &str) -> Option<Vec<u8>> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty()
        || unsigned.ends_with('.')
        || !all_digits(whole)
        || !all_digits(fraction)
        || text.len() > 1000
    {
        return None;
    }
    // Groups of four on either side of the point.
    let left = "0".repeat((4 - whole.len() % 4) % 4);
    let right = "0".repeat((4 - fraction.len() % 4) % 4);
    let digits = [&left, whole, fraction, &right].concat();
    let mut groups: Vec<u16> = digits
        .as_bytes()
        .chunks(4)
        .map(|group| {
            group
                .iter()
                .fold(0, |value, digit| value * 10 + u16::from(digit - b'0'))
        })
        .collect();
    let mut weight = i16::try_from(whole.len().div_ceil(4)).ok()? - 1;
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let leading = groups.iter().take_while(|&&group| group == 0).count();
    groups.drain(..leading);
    weight -= i16::try_from(leading).ok()?;
    if groups.is_empty() {
        weight = 0;
    }
    let sign: u16 = if negative && !groups.is_empty() {
        0x4000
    } else {
        0
    };
    let mut out = Vec::with_capacity(8 + 2 * groups.len());
    out.extend(u16::try_from(groups.len()).ok()?.to_be_bytes());
    out.extend(weight.to_be_bytes());
    out.extend(sign.to_be_bytes());
    out.extend(u16::try_from(fraction.len()).ok()?.to_be_bytes());
    for group in groups {
        out.extend(group.to_be_bytes());
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::encode;

    #[test]
    fn digits_are_grouped_from_the_point_without_needless_zeros() {
        assert_eq!(encode("0"), Some(vec![0; 8]));
        assert_eq!(
            encode("12.5"),
            Some(vec![0, 2, 0, 0, 0, 0, 0, 1, 0, 12, 0x13, 0x88])
        );
        assert_eq!(
            encode("-10000"),
            Some(vec![0, 1, 0, 1, 0x40, 0, 0, 0, 0, 1])
        );
        assert_eq!(
            encode("0.0001"),
            Some(vec![0, 1, 0xff, 0xff, 0, 0, 0, 4, 0, 1])
        );
    }

    #[test]
    fn what_is_not_a_decimal_number_is_none() {
        for text in [
            "", "-", ".", "1.", ".5", "1e3", "NaN", "1 ", "+1", "1.2.3", "--1",
        ] {
            assert_eq!(encode(text), None, "{text}");
        }
    }
}
