//! Finds the shares of a file in the directories of nodes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use decode_kernel::tahoe::ChkCap;

use super::rejected::{RejectReason, Rejected};

/// The directory of shares of a node. `dir` may be the node's directory, its `storage` directory, or the directory of
/// shares itself.
pub fn share_root(dir: &Path) -> PathBuf {
    let below = [dir.join("storage/shares"), dir.join("shares")];
    below
        .into_iter()
        .find(|path| path.is_dir())
        .unwrap_or_else(|| dir.to_owned())
}

/// A file that may be a share.
#[derive(Debug)]
pub(super) struct Candidate {
    /// The share number in its name, below n.
    pub(super) number: u16,
    /// Index of its node in the list of nodes.
    pub(super) node: usize,
    pub(super) path: PathBuf,
}

/// All files whose names are those of shares of the cap's file, sorted by number, then by node; and the nodes that
/// could not be searched.
pub(super) fn candidates(nodes: &[PathBuf], cap: &ChkCap) -> (Vec<Candidate>, Vec<Rejected>) {
    let (mut found, mut rejected) = (Vec::new(), Vec::new());
    let below = cap.storage_index().dir();
    for (node, dir) in nodes.iter().enumerate() {
        let path = share_root(dir).join(&below);
        let listed = fs::read_dir(&path).and_then(|entries| {
            for entry in entries {
                let name = entry?.file_name();
                let Some(number) = name.to_str().and_then(share_number) else {
                    continue;
                };
                if number < cap.n() {
                    found.push(Candidate {
                        number,
                        node,
                        path: path.join(name),
                    });
                }
            }
            Ok(())
        });
        let reason = match listed {
            Ok(()) => continue,
            Err(error) if error.kind() != io::ErrorKind::NotFound => error.into(),
            Err(_) if dir.is_dir() => continue,
            Err(_) => RejectReason::NodeMissing,
        };
        let path = if dir.is_dir() { path } else { dir.clone() };
        rejected.push(Rejected { node, path, reason });
    }
    found.sort_by_key(|candidate| (candidate.number, candidate.node));
    (found, rejected)
}

/// The share number in a file name, if the name is one that storage servers write.
pub(super) fn share_number(name: &str) -> Option<u16> {
    let digits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = digits && (name == "0" || !name.starts_with('0'));
    canonical.then(|| name.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_share_numbers_as_servers_write_them_are_read() {
        for (name, number) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("255", Some(255)),
            ("00", None),
            ("07", None),
            ("+7", None),
            ("7 ", None),
            ("-0", None),
            ("", None),
            ("0x1", None),
            ("7.tmp", None),
            ("65536", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(share_number(name), number, "{name:?}");
        }
    }

    #[test]
    fn a_node_is_named_by_any_of_three_directories() {
        let node = tempfile::tempdir().unwrap();
        let shares = node.path().join("storage/shares");
        assert_eq!(share_root(node.path()), node.path());
        fs::create_dir_all(&shares).unwrap();
        for dir in [node.path(), &node.path().join("storage"), &shares] {
            assert_eq!(share_root(dir), shares, "{}", dir.display());
        }
    }
}
