//! What a lying uploader can do, whose hashes all match. In every case the reader only refuses the
//! file.

use decode_kernel::tahoe::ChkCap;
use penstock_store::tahoe::write::{Entries, Upload};
use penstock_store::tahoe::{Limits, OpenError, open};

use crate::common::{Grid, get_in_all_ways, link_node, noise, read_prefix, subsets};

fn set(entries: &mut Entries, key: &str, value: Option<&[u8]>) {
    let at = entries.iter().position(|entry| entry.0 == key).unwrap();
    match value {
        Some(value) => entries[at].1 = value.to_vec(),
        None => drop(entries.remove(at)),
    }
}

/// The UEB says one other thing, and the cap has the hash of this UEB.
fn opened_with(key: &str, value: Option<&[u8]>) -> Result<(), OpenError> {
    let edit = |entries: &mut Entries| {
        if key == "segment_size" {
            // Otherwise the contradiction would be found first, and not the absurd value.
            for key in ["num_segments", "codec_params", "tail_codec_params"] {
                set(entries, key, None);
            }
        }
        set(entries, key, value);
    };
    let (k, n, segment_bytes) = (3, 5, 999);
    let upload = Upload {
        k,
        n,
        segment_bytes,
        edit_ueb: Some(&edit),
        ..Upload::default()
    };
    let bytes = noise(5000, 1);
    let grid = Grid::new(1, &upload, &bytes);
    let file = open(&grid.nodes, &grid.cap, &Limits::default())?;
    // The first segment shows that the segment length is wrong.
    match file.geometry.segment_bytes() {
        999 => assert_eq!(grid.get().unwrap(), bytes),
        _ => drop(grid.get().unwrap_err()),
    }
    Ok(())
}

#[test]
fn lying_uebs_are_refused() {
    opened_with("codec_name", Some(b"crs")).unwrap();
    for (key, value) in [
        ("segment_size", None),
        ("segment_size", Some(&b"0"[..])),
        ("segment_size", Some(b"-999")),
        ("segment_size", Some(b"999.0")),
        ("segment_size", Some(b"")),
        ("segment_size", Some(b"1000")),
        ("segment_size", Some(b"1099511627775")),
        ("segment_size", Some(b"9999999999999999999999999")),
        ("share_root_hash", None),
        ("share_root_hash", Some(b"short")),
        ("crypttext_root_hash", None),
        ("crypttext_root_hash", Some(&[0; 33])),
        ("size", Some(b"5001")),
        ("needed_shares", Some(b"2")),
        ("total_shares", Some(b"6")),
        ("num_segments", Some(b"5")),
        ("codec_name", Some(b"rot13")),
        ("codec_params", Some(b"999-3-6")),
        ("tail_codec_params", Some(b"999-3-5")),
    ] {
        match opened_with(key, value) {
            Err(OpenError::Refused { reason, .. }) => {
                assert!(reason.to_string().contains(key), "{reason}");
            }
            other => panic!("{key} = {value:?}: {other:?}"),
        }
    }
    opened_with("segment_size", Some(b"1998")).unwrap();
    opened_with("segment_size", Some(b"1002")).unwrap();
}

#[test]
fn a_segment_over_the_limit_is_refused_before_it_is_read() {
    let upload = Upload {
        k: 2,
        n: 3,
        segment_bytes: 4000,
        ..Upload::default()
    };
    let grid = Grid::new(1, &upload, &noise(4000, 1));
    let limits = Limits {
        segment_max: 3999,
        ..Limits::default()
    };
    let error = open(&grid.nodes, &grid.cap, &limits).unwrap_err();
    assert!(matches!(error, OpenError::Refused { .. }));
    assert!(
        error
            .to_string()
            .contains("4000 bytes are longer than the limit of 3999"),
        "{error}"
    );
    let limits = Limits {
        segment_max: 4000,
        ..Limits::default()
    };
    assert!(open(&grid.nodes, &grid.cap, &limits).is_ok());
}

/// The cap and a UEB that does not contradict it claim more bytes than any share has.
#[test]
fn an_endless_size_is_refused_by_the_shares_lengths() {
    let quiet = |entries: &mut Entries| {
        for key in ["size", "num_segments", "tail_codec_params"] {
            set(entries, key, None);
        }
    };
    let (k, n, segment_bytes) = (2, 3, 4000);
    let upload = Upload {
        k,
        n,
        segment_bytes,
        edit_ueb: Some(&quiet),
        ..Upload::default()
    };
    let grid = Grid::new(1, &upload, &noise(9000, 1));
    grid.get().unwrap();
    for size in [9_001, 12_001, 1 << 40, 1 << 63, u64::MAX] {
        let cap = ChkCap::new(upload.key, *grid.cap.ueb_hash(), 2, 3, size).unwrap();
        let (read, outcome) = read_prefix(&grid.nodes, &cap, 8 << 20, 1 << 20);
        assert!(outcome.is_err() && read.len() <= 8000, "{size}");
        if size > 12_000 {
            let error = open(&grid.nodes, &cap, &Limits::default()).unwrap_err();
            assert!(
                matches!(error, OpenError::TooFew { have: 0, .. }),
                "{error}"
            );
        }
    }
}

/// Parity that does not belong to the data: any subset of shares gives the file or an error.
#[test]
fn shares_that_are_no_codeword_never_give_another_file() {
    let bytes = noise(5000, 1);
    for liar in [0, 1, 3, 4] {
        let edit = |number: u16, segment: u64, at: u64, bytes: &mut [u8]| {
            if number == liar && segment == 1 && at == 0 {
                bytes[7] ^= 1;
            }
        };
        let (k, n, segment_bytes) = (3, 5, 999);
        let upload = Upload {
            k,
            n,
            segment_bytes,
            edit_block: Some(&edit),
            ..Upload::default()
        };
        let grid = Grid::new(1, &upload, &bytes);
        let links = tempfile::tempdir().unwrap();
        for set in subsets(n, k) {
            let paths: Vec<_> = set.iter().map(|&i| (i, grid.share(i))).collect();
            let shares: Vec<_> = paths.iter().map(|(i, path)| (*i, path.as_path())).collect();
            let index = grid.cap.storage_index();
            let node = link_node(links.path(), &format!("{set:?}"), index, &shares);
            match get_in_all_ways(&[node], &grid.cap) {
                Ok(file) => assert!(file == bytes && !set.contains(&liar), "{set:?}"),
                Err(error) => {
                    assert!(set.contains(&liar), "{set:?}: {error}");
                    assert!(
                        error.contains("segment 1 is not what the cap says"),
                        "{error}"
                    );
                }
            }
        }
    }
}
