//! Where the running kernel has the members of its structures: from its own type information.
//!
//! Programs that read the kernel's memory at fixed places are only loaded where this says that the
//! places are right. Of BTF it reads as much as that takes.

use std::fs;
use std::io;
use std::path::Path;

/// Where Linux shows its own types.
pub(super) const KERNEL: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;

/// The kernel's types.
pub(super) struct Types(Vec<u8>);

impl Types {
    /// Those of the running kernel.
    pub(super) fn of_kernel() -> io::Result<Self> {
        fs::read(Path::new(KERNEL)).map(Self)
    }

    /// The offset in bytes of a structure's own member, or `None` if there is no such structure, no
    /// such member, or it isn't at a whole byte.
    pub(super) fn offset(&self, structure: &str, member: &str) -> Option<u64> {
        let header = Reader(&self.0);
        let (types, strings) = header.sections()?;
        let mut at = 0;
        while at < types.0.len() {
            let (name, info) = (types.word(at)?, types.word(at + 4)?);
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let members = at + 12;
            if kind == KIND_STRUCT && strings.has(name, structure) {
                let bitfields = info >> 31 == 1;
                return (0..count).find_map(|n| {
                    let member_at = members + 12 * n;
                    let name = types.word(member_at)?;
                    let offset = types.word(member_at + 8)?;
                    let bits = if bitfields {
                        offset & 0xff_ffff
                    } else {
                        offset
                    };
                    let found = strings.has(name, member) && bits % 8 == 0;
                    found.then_some(u64::from(bits / 8))
                });
            }
            at = members + payload(kind, count);
        }
        None
    }
}

/// How many bytes follow a type's first twelve.
fn payload(kind: u32, count: usize) -> usize {
    match kind {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * count,
        KIND_ENUM | KIND_FUNC_PROTO => 8 * count,
        _ => 0,
    }
}

/// Bytes in this machine's order; nothing outside of them is read.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The sections of types and of strings behind a header.
    fn sections(self) -> Option<(Self, Self)> {
        let magic = u16::from_ne_bytes(*self.0.first_chunk()?);
        let header = self.word(4)? as usize;
        let part = |at| {
            let from = header.checked_add(self.word(at)? as usize)?;
            let to = from.checked_add(self.word(at + 4)? as usize)?;
            self.0.get(from..to).map(Reader)
        };
        (magic == MAGIC).then_some((part(8)?, part(16)?))
    }

    fn word(self, at: usize) -> Option<u32> {
        let bytes = self.0.get(at..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*bytes))
    }

    /// Whether the text at an offset, up to its zero, is this one.
    fn has(self, at: u32, text: &str) -> bool {
        let rest = self.0.get(at as usize..);
        let behind = rest.and_then(|rest| rest.strip_prefix(text.as_bytes()));
        behind.is_some_and(|behind| behind.first() == Some(&0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two structures behind an integer, as a compiler would describe them.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0first\0a\0b\0second\0";
        let words: [u32; 31] = [
            1,
            KIND_INT << 24,
            4,
            32, // int
            5,
            KIND_STRUCT << 24 | 2,
            8, // first
            11,
            1,
            0, //   a at 0
            13,
            1,
            32, //   b at 4
            15,
            KIND_STRUCT << 24 | 1 << 31 | 2,
            4, // second, with bit fields
            11,
            1,
            8 << 24 | 16, //   a at 2
            13,
            1,
            4 << 24 | 3, //   b at bit 3
            0,
            KIND_FUNC_PROTO << 24 | 1,
            1,
            0,
            1,
            0,
            KIND_ARRAY << 24,
            0,
            1,
        ];
        let types: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
        let mut btf = MAGIC.to_ne_bytes().to_vec();
        btf.extend([1, 0]);
        for word in [24, 0, length(&types), length(&types), length(strings)] {
            btf.extend(word.to_ne_bytes());
        }
        btf.extend(types);
        btf.extend(strings);
        btf
    }

    #[test]
    fn a_members_offset_is_found_in_its_own_structure() {
        let types = Types(sample());
        assert_eq!(types.offset("first", "a"), Some(0));
        assert_eq!(types.offset("first", "b"), Some(4));
        assert_eq!(types.offset("second", "a"), Some(2));
        assert_eq!(types.offset("second", "b"), None, "a bit field");
        assert_eq!(types.offset("first", "c"), None);
        assert_eq!(types.offset("third", "a"), None);
    }

    #[test]
    fn damaged_types_have_no_members() {
        let whole = sample();
        for length in 0..whole.len() {
            // Nothing to find, or found before the end; never a panic.
            let _ = Types(whole[..length].to_vec()).offset("second", "a");
        }
        let mut other = whole;
        other[0] = 0;
        assert_eq!(Types(other).offset("first", "a"), None);
    }
}
