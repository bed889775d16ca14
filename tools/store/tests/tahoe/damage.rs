//! What storage servers can do to shares. In every case the reader only stops using those shares.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use penstock_store::tahoe::write::{Upload, content, on_nodes};
use penstock_store::tahoe::{Limits, OpenError, Reader, open};
use proptest::prelude::*;

use crate::common::{Grid, empty_nodes, get_in_all_ways, link_node, noise, read_prefix, subsets};

fn upload(k: u16, n: u16, segment_bytes: u64) -> Upload<'static> {
    Upload {
        k,
        n,
        segment_bytes,
        ..Upload::default()
    }
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .write_all_at(bytes, at)
        .unwrap();
}

fn flip(path: &Path, at: u64) {
    let mut byte = [0];
    let file = File::options().read(true).write(true).open(path).unwrap();
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[test]
fn any_k_shares_give_the_file() {
    for (k, n, segment, size) in [
        (1, 3, 1000, 3500),
        (2, 4, 1000, 1),
        (2, 4, 1000, 4001),
        (3, 5, 999, 2998),
        (3, 5, 30_000, 65_000),
        (5, 7, 1000, 999),
        (7, 8, 7, 40),
    ] {
        for (container, layout) in [(1, 1), (2, 2)] {
            let bytes = noise(size, 7);
            let grid = Grid::new(
                3,
                &Upload {
                    container,
                    layout,
                    ..upload(k, n, segment)
                },
                &bytes,
            );
            assert_eq!(grid.get().unwrap(), bytes);
            let links = tempfile::tempdir().unwrap();
            for set in subsets(n, k) {
                let paths: Vec<_> = set.iter().map(|&i| (i, grid.share(i))).collect();
                let shares: Vec<_> = paths.iter().map(|(i, path)| (*i, path.as_path())).collect();
                let index = grid.cap.storage_index();
                let node = link_node(links.path(), &format!("{set:?}"), index, &shares);
                assert_eq!(
                    get_in_all_ways(&[node], &grid.cap).unwrap(),
                    bytes,
                    "{set:?}"
                );
                let node = link_node(links.path(), &format!("-{set:?}"), index, &shares[1..]);
                let error = open(&[node], &grid.cap, &Limits::default()).unwrap_err();
                match error {
                    OpenError::TooFew { have, need, .. } => {
                        assert_eq!((have + 1, need), (k.into(), k.into()));
                    }
                    OpenError::NotFound { .. } => assert_eq!(k, 1),
                    OpenError::Refused { .. } => panic!("{error}"),
                }
            }
        }
    }
}

#[test]
fn the_widest_codes() {
    for (k, n) in [(200, 256), (256, 256), (1, 256)] {
        let bytes = noise(100_000, 3);
        let grid = Grid::new(9, &upload(k, n, u64::from(k) * 130), &bytes);
        for number in 0..(n - k).min(60) {
            fs::remove_file(grid.share(number)).unwrap();
        }
        assert!(grid.get().unwrap() == bytes, "{k} of {n}");
    }
}

/// Every share is damaged somewhere, but no segment in more than n-k of them.
#[test]
fn one_bad_block_costs_that_block_only() {
    let bytes = noise(4000, 1);
    let grid = Grid::new(4, &upload(2, 4, 1000), &bytes);
    for share in 0..4u16 {
        for segment in [u64::from(share), u64::from(share + 1) % 4] {
            flip(&grid.share(share), 12 + 0x24 + segment * 500 + 77);
        }
    }
    assert_eq!(grid.get().unwrap(), bytes);
    // One more bad block in segment 2, and it cannot be read; all bytes before it were right.
    flip(&grid.share(0), 12 + 0x24 + 2 * 500);
    let (read, outcome) = read_prefix(&grid.nodes, &grid.cap, 8 << 20, 1 << 20);
    assert!(read == bytes[..2000] && outcome.is_err(), "{outcome:?}");
    let error = outcome.unwrap_err();
    assert!(
        error.contains("segment 2 has 1 good blocks, 2 are needed"),
        "{error}"
    );
    let (read, outcome) = read_prefix(&grid.nodes, &grid.cap, 0, 1);
    assert!(read == bytes[..2000] && outcome.is_err(), "{outcome:?}");
}

#[test]
fn misnumbered_and_foreign_shares_are_not_used() {
    let bytes = noise(5000, 1);
    let fresh = || Grid::new(1, &upload(3, 10, 999), &bytes);
    // Swapped with the sibling in the tree, and with another share.
    for (a, b) in [(0, 1), (0, 2), (4, 9)] {
        let grid = fresh();
        let between = grid.nodes[0].join("between");
        fs::rename(grid.share(a), &between).unwrap();
        fs::rename(grid.share(b), grid.share(a)).unwrap();
        fs::rename(&between, grid.share(b)).unwrap();
        assert_eq!(grid.get().unwrap(), bytes);
        for number in (0..10).filter(|&number| ![a, b, 6, 7].contains(&number)) {
            fs::remove_file(grid.share(number)).unwrap();
        }
        grid.get().unwrap_err();
    }
    // One share under all numbers.
    let grid = fresh();
    for number in 1..10 {
        fs::copy(grid.share(0), grid.share(number)).unwrap();
    }
    grid.get().unwrap_err();
    // The same key with another encoding: the UEB differs.
    let grid = fresh();
    let other = Grid::new(1, &upload(3, 10, 1500), &bytes);
    for number in 0..8 {
        fs::copy(other.share(number), grid.share(number)).unwrap();
    }
    let error = open(&grid.nodes, &grid.cap, &Limits::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("2 good shares, 3 are needed"), "{error}");
    assert!(
        error.contains("the UEB's hash is not the one in the cap"),
        "{error}"
    );
    fs::copy(fresh().share(7), grid.share(7)).unwrap();
    assert_eq!(grid.get().unwrap(), bytes);
}

/// Several nodes have shares of the same numbers. One copy of each number is bad: some from the start, some only in a
/// block.
#[test]
fn a_bad_copy_hides_no_good_one() {
    let bytes = noise(5000, 1);
    let (_root, nodes) = empty_nodes(4);
    let upload = upload(2, 4, 1000);
    let mut cap = None;
    for node in &nodes {
        let only = std::slice::from_ref(node);
        let place = on_nodes(only);
        let some = |index, number| {
            if number < 2 {
                place(index, number)
            } else {
                None
            }
        };
        cap = Some(upload.write(5000, &content(&bytes), &some).unwrap());
    }
    let cap = cap.unwrap();
    let share = |node: usize, number: u16| {
        on_nodes(&nodes[node..=node])(cap.storage_index(), number).unwrap()
    };
    File::create(share(0, 0)).unwrap();
    overwrite(&share(1, 0), 0, b"Tahoe mutable container v2\n");
    flip(&share(2, 0), 12 + 0x24 + 1300);
    for node in 0..3 {
        flip(&share(node, 1), 12 + 0x24 + 500 * node as u64);
    }
    assert_eq!(get_in_all_ways(&nodes, &cap).unwrap(), bytes);
    let limits = Limits {
        files_max: 4,
        ..Limits::default()
    };
    let file = open(&nodes, &cap, &limits).unwrap();
    assert_eq!(
        file.shares
            .iter()
            .map(|share| share.number)
            .collect::<Vec<_>>(),
        [0, 0, 1, 1]
    );
    assert_eq!(file.rejected.len(), 4);
}

#[test]
fn files_that_are_no_shares_are_not_read() {
    let bytes = noise(5000, 1);
    let grid = Grid::new(1, &upload(2, 4, 1000), &bytes);
    let shares = grid.nodes[0].join("storage/shares");
    let own = shares.join(grid.cap.storage_index().dir());
    let incoming = shares.join("incoming").join(grid.cap.storage_index().dir());
    fs::create_dir_all(&incoming).unwrap();
    for number in [2, 3] {
        fs::rename(grid.share(number), incoming.join(number.to_string())).unwrap();
    }
    for name in ["00", "01", "+1", "1.tmp", "4", "300", "x"] {
        fs::copy(grid.share(1), own.join(name)).unwrap();
    }
    fs::create_dir(own.join("2")).unwrap();
    let fifo = own.join("3");
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
    )
    .unwrap();
    let file = open(&grid.nodes, &grid.cap, &Limits::default()).unwrap();
    assert_eq!((file.shares.len(), file.rejected.len()), (2, 2));
    assert_eq!(grid.get().unwrap(), bytes);
    fs::remove_file(grid.share(1)).unwrap();
    let error = open(&grid.nodes, &grid.cap, &Limits::default()).unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::TooFew {
                have: 1,
                need: 2,
                ..
            }
        ),
        "{error}"
    );
    fs::remove_dir_all(own).unwrap();
    let error = open(&grid.nodes, &grid.cap, &Limits::default()).unwrap_err();
    assert!(matches!(error, OpenError::NotFound { .. }), "{error}");
    let missing = [grid.nodes[0].join("nowhere")];
    let error = open(&missing, &grid.cap, &Limits::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("the node's directory is missing"), "{error}");
}

/// Damage that happens between the passes over a long segment, or during delivery.
#[test]
fn a_share_that_changes_while_it_is_read_is_replaced() {
    let bytes = noise(600_000, 1);
    for (victim, cut) in [(0, false), (1, false), (4, false), (0, true), (4, true)] {
        let grid = Grid::new(1, &upload(3, 5, 600_000), &bytes);
        fs::remove_file(grid.share(2)).unwrap();
        let file = open(&grid.nodes, &grid.cap, &Limits::default()).unwrap();
        let mut reader = Reader::with_buffers(file, 0, 64 << 10);
        let mut read = Vec::new();
        let mut parts = 0;
        let outcome = reader.read(0..600_000, &mut |part| {
            read.extend_from_slice(part);
            parts += 1;
            if parts == 3 && cut {
                let share = File::options()
                    .write(true)
                    .open(grid.share(victim))
                    .unwrap();
                share.set_len(1000).unwrap();
            } else if parts == 3 {
                overwrite(&grid.share(victim), 12 + 0x24 + 150_000, &[0; 50_000]);
            }
            Ok(())
        });
        outcome.unwrap();
        assert!(read == bytes, "share {victim}");
        // Shares 0, 1, 3 are chosen first.
        assert_eq!(
            reader.stats().bad_blocks,
            u64::from(victim != 4),
            "share {victim}"
        );
    }
}

/// As above, without a spare share: an error, after right bytes up to there.
#[test]
fn a_changed_share_without_a_spare_is_an_error() {
    let bytes = noise(600_000, 1);
    let grid = Grid::new(1, &upload(3, 3, 600_000), &bytes);
    let file = open(&grid.nodes, &grid.cap, &Limits::default()).unwrap();
    let mut reader = Reader::with_buffers(file, 0, 64 << 10);
    let mut read = Vec::new();
    let outcome = reader.read(0..600_000, &mut |part| {
        if read.is_empty() {
            overwrite(&grid.share(1), 12 + 0x24 + 100_000, b"other");
        }
        read.extend_from_slice(part);
        Ok(())
    });
    assert!(outcome.is_err());
    assert!(read.len() >= 200_000 && read == bytes[..read.len()]);
}

/// One kind of damage to a share file.
#[derive(Debug, Clone)]
enum Harm {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    /// A word of the headers, of 4 or 8 bytes.
    Word(usize, u64),
    Zeros(prop::sample::Index, usize),
    Grow(usize),
    Replace(u16),
    Remove,
}

fn harm() -> impl Strategy<Value = Harm> {
    let absurd = prop_oneof![
        Just(0),
        Just(u64::MAX),
        Just(u64::MAX / 2 + 1),
        Just(u64::from(u32::MAX)),
        Just(1 << 31),
        0..3000u64,
        any::<u64>(),
    ];
    prop_oneof![
        4 => (any::<prop::sample::Index>(), 0..8u8).prop_map(|(at, bit)| Harm::Flip(at, bit)),
        2 => any::<prop::sample::Index>().prop_map(Harm::Cut),
        4 => (0..20usize, absurd).prop_map(|(word, value)| Harm::Word(word, value)),
        1 => (any::<prop::sample::Index>(), 1..500usize).prop_map(|(at, n)| Harm::Zeros(at, n)),
        1 => (1..200usize).prop_map(Harm::Grow),
        1 => (0..5u16).prop_map(Harm::Replace),
        1 => Just(Harm::Remove),
    ]
}

fn apply(harm: &Harm, grid: &Grid, number: u16, originals: &[Vec<u8>]) {
    let path = grid.share(number);
    let mut bytes = originals[usize::from(number)].clone();
    match harm {
        Harm::Flip(at, bit) => *at.get_mut(&mut bytes) ^= 1 << bit,
        Harm::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Harm::Word(word, value) => {
            let wide = value.to_be_bytes();
            let at = word * 4;
            bytes[at..at + 4].copy_from_slice(&wide[4..]);
            if *word >= 3 && word % 2 == 0 {
                bytes[at..at + 8].copy_from_slice(&wide);
            }
        }
        Harm::Zeros(at, len) => {
            let at = at.index(bytes.len());
            let end = (at + len).min(bytes.len());
            bytes[at..end].fill(0);
        }
        Harm::Grow(len) => bytes.extend(vec![0xff; *len]),
        Harm::Replace(other) => bytes = originals[usize::from(*other)].clone(),
        Harm::Remove => return fs::remove_file(path).unwrap(),
    }
    fs::write(path, bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// With up to n-k damaged shares the whole file is read. With more, the result is the file or an error, and never a
    /// wrong byte.
    #[test]
    fn damaged_shares_never_give_a_wrong_byte(
        harms in prop::collection::vec((0..5u16, harm()), 1..8),
        layout in 1..=2u32,
        single in any::<bool>(),
    ) {
        let bytes = noise(4100, 9);
        let segment = if single { 4101 } else { 1026 };
        let grid = Grid::new(2, &Upload { layout, ..upload(3, 5, segment) }, &bytes);
        let originals: Vec<Vec<u8>> = (0..5).map(|i| fs::read(grid.share(i)).unwrap()).collect();
        let mut harmed = std::collections::BTreeSet::new();
        for (number, harm) in &harms {
            if harmed.insert(*number) {
                apply(harm, &grid, *number, &originals);
            }
        }
        let file = grid.get();
        if harmed.len() <= 2 {
            prop_assert!(file.as_ref().is_ok_and(|file| *file == bytes), "{:?}", file.err());
        }
        for (whole_max, row_bytes) in [(8 << 20, 1 << 20), (0, 1)] {
            let (read, outcome) = read_prefix(&grid.nodes, &grid.cap, whole_max, row_bytes);
            prop_assert!(bytes.starts_with(&read));
            prop_assert_eq!(outcome.is_ok(), read.len() == bytes.len());
        }
    }
}
