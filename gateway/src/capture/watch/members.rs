//! The processes and threads below a cgroup.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Calls `visit` with the id of each cgroup from `slice` down, and each id in `file` there. Cgroups
/// come and go meanwhile: what can't be read is passed over, the next scan sees it.
pub(super) fn each_member(slice: &Path, file: &str, visit: &mut impl FnMut(u64, u32)) {
    let mut pending = vec![slice.to_owned()];
    while let Some(cgroup) = pending.pop() {
        if let Ok(members) = fs::read_to_string(cgroup.join(file))
            && !members.is_empty()
            && let Ok(id) = fs::metadata(&cgroup).map(|meta| meta.ino())
        {
            // 0 is a process outside of our pid namespace.
            members
                .lines()
                .filter_map(|member| member.parse().ok())
                .filter(|&member| member != 0)
                .for_each(|member| visit(id, member));
        }
        let Ok(entries) = fs::read_dir(&cgroup) else {
            continue;
        };
        let children = entries.filter_map(Result::ok);
        pending.extend(
            children
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_all_cgroups_below_are_visited_except_foreign_ones() {
        let root = tempfile::tempdir().unwrap();
        let child = root.path().join("a/b");
        fs::create_dir_all(&child).unwrap();
        fs::write(root.path().join("cgroup.procs"), "1\n0\n").unwrap();
        fs::write(child.join("cgroup.procs"), "22\n333\n").unwrap();
        let mut seen = Vec::new();
        each_member(root.path(), "cgroup.procs", &mut |id, pid| {
            seen.push((id, pid));
        });
        let [slice, child] = [root.path(), &child].map(|dir| fs::metadata(dir).unwrap().ino());
        assert_eq!(seen, [(slice, 1), (child, 22), (child, 333)]);
    }
}
