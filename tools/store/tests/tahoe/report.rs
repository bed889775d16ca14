//! The findings of verify and inspect.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use decode_kernel::tahoe::Cap;
use penstock_store::Progress;
use penstock_store::tahoe::inspect::{Inspection, inspect, recognises};
use penstock_store::tahoe::verify::{VerifyOptions, VerifyReport, verify};
use penstock_store::tahoe::write::{Upload, on_nodes};
use penstock_store::tahoe::{Limits, OpenError};
use penstock_store::verify::Health;

use crate::common::{Grid, noise};

/// Where the first block begins in a file of layout 1.
const DATA: u64 = 12 + 0x24;

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .write_all_at(bytes, at)
        .unwrap();
}

fn verified(grid: &Grid) -> Result<(VerifyReport, Vec<String>), OpenError> {
    let cap = Cap::Chk(grid.cap.clone());
    let options = VerifyOptions {
        nodes: grid.nodes.clone(),
        cap,
        limits: Limits::default(),
    };
    let mut findings = Vec::new();
    let report = verify(&options, &Progress::hidden(), &mut |finding| {
        findings.push(finding.to_string());
    })?;
    Ok((report, findings))
}

/// 10,000 bytes, 2 of 4, in ten segments with blocks of 500 bytes.
fn grid() -> Grid {
    Grid::new(
        2,
        &Upload {
            k: 2,
            n: 4,
            segment_bytes: 1000,
            ..Upload::default()
        },
        &noise(10_000, 5),
    )
}

#[test]
fn a_healthy_file() {
    let (report, findings) = verified(&grid()).unwrap();
    assert_eq!(
        (report.health, report.good_shares, report.shares),
        (Health::Healthy, 4, 4)
    );
    assert_eq!((report.bytes, report.bad_blocks), (20_000, 0));
    assert_eq!(findings, [""; 0]);
    let literal = VerifyOptions {
        nodes: vec![],
        cap: Cap::parse("URI:LIT:mfrgg").unwrap(),
        limits: Limits::default(),
    };
    let report = verify(&literal, &Progress::hidden(), &mut |_| ()).unwrap();
    assert_eq!(report.health, Health::Healthy);
}

#[test]
fn all_damage_is_reported_with_its_place() {
    let grid = grid();
    // Segments 2 to 4 of share 0; 9 of share 3; a copy of share 1; a junk share 2.
    overwrite(&grid.share(0), DATA + 1200, &[0; 1000]);
    overwrite(&grid.share(3), DATA + 4700, &[0; 10]);
    let other = on_nodes(&grid.nodes[..1])(grid.cap.storage_index(), 1).unwrap();
    fs::copy(grid.share(1), other).unwrap();
    fs::write(grid.share(2), b"junk").unwrap();
    let (report, findings) = verified(&grid).unwrap();
    let findings = findings.join("\n");
    assert_eq!(
        (report.health, report.good_shares),
        (Health::Damaged, 1),
        "{findings}"
    );
    assert_eq!(report.bad_blocks, 4);
    for expected in [
        "share 0: bad blocks in segments 2..5 of ",
        "share 3: bad blocks in segment 9 of ",
        "note: another copy of share 1: ",
        "not used: ",
        "share 2 is missing",
    ] {
        assert!(
            findings.contains(expected),
            "{expected:?} is not in\n{findings}"
        );
    }
    // Only two shares are left and both are bad there, so the file cannot be read.
    overwrite(&grid.share(1), DATA + 4600, &[0; 10]);
    let copy = on_nodes(&grid.nodes[..1])(grid.cap.storage_index(), 1).unwrap();
    fs::remove_file(copy).unwrap();
    let (report, findings) = verified(&grid).unwrap();
    assert_eq!(report.health, Health::Unreadable);
    assert!(
        findings
            .iter()
            .any(|finding| finding.contains("segment 9 cannot be read"))
    );
    fs::remove_file(grid.share(0)).unwrap();
    fs::remove_file(grid.share(1)).unwrap();
    assert!(matches!(
        verified(&grid),
        Err(OpenError::TooFew {
            have: 1,
            need: 2,
            ..
        })
    ));
}

#[test]
fn a_damaged_copy_of_the_ciphertext_hashes_is_reported_and_harmless() {
    let grid = grid();
    // 16 leaves: the trees have 31 nodes; plaintext first, then ciphertext. Leaf 6 is node 21.
    let tree = DATA + 5000 + 31 * 32;
    overwrite(&grid.share(0), tree + 21 * 32, &[0; 32]);
    let (report, findings) = verified(&grid).unwrap();
    assert_eq!(report.health, Health::Damaged);
    // A leaf is not read for its own segment, only for its neighbour's.
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(
        findings[0].contains("share 0: bad ciphertext hashes for segment 7"),
        "{findings:?}"
    );
    assert_eq!(grid.get().unwrap(), noise(10_000, 5));
}

#[test]
fn shares_that_are_no_codeword_are_reported() {
    let edit = |number: u16, segment: u64, _: u64, bytes: &mut [u8]| {
        if (number, segment) == (1, 3) {
            bytes[0] ^= 1;
        }
    };
    let (k, n, segment_bytes) = (2, 4, 1000);
    let upload = Upload {
        k,
        n,
        segment_bytes,
        edit_block: Some(&edit),
        ..Upload::default()
    };
    let grid = Grid::new(2, &upload, &noise(10_000, 5));
    let (report, findings) = verified(&grid).unwrap();
    assert_eq!((report.health, report.bad_blocks), (Health::Unreadable, 0));
    assert!(
        findings[0].contains("segment 3 cannot be read"),
        "{findings:?}"
    );
}

fn inspected(path: &Path) -> Inspection {
    assert!(recognises(path));
    inspect(path, true, &Progress::hidden()).unwrap()
}

#[test]
fn inspecting_a_share() {
    for (container, layout, leases) in [(1, 1, 0), (2, 2, 5)] {
        let (k, n, segment_bytes) = (2, 4, 1000);
        let upload = Upload {
            k,
            n,
            segment_bytes,
            container,
            layout,
            leases,
            ..Upload::default()
        };
        let grid = Grid::new(2, &upload, &noise(10_000, 5));
        let inspection = inspected(&grid.share(3));
        assert!(inspection.good(), "{inspection}");
        assert_eq!(
            (inspection.container.version, inspection.container.leases),
            (container, leases)
        );
        assert_eq!(inspection.ueb_hash.as_ref(), Some(grid.cap.ueb_hash()));
        assert_eq!(
            (inspection.number, inspection.bad_blocks),
            (Some(3), Some(0))
        );
        let text = inspection.to_string();
        for expected in [
            format!("container version {container}"),
            format!("leases        {leases}"),
            format!("layout        version {layout}"),
            "segment_size: 1000".into(),
            "share         3".into(),
        ] {
            assert!(text.contains(&expected), "{expected:?} is not in\n{text}");
        }
    }
}

#[test]
fn inspecting_damage() {
    let grid = grid();
    let path = grid.share(0);
    overwrite(&path, DATA + 1200, &[0; 1000]);
    assert_eq!(inspected(&path).bad_blocks, Some(3));
    assert!(!inspected(&path).good());
    let good = fs::read(grid.share(1)).unwrap();
    let look = |name: &str, bytes: &[u8]| {
        let path = grid.nodes[0].join(name);
        fs::write(&path, bytes).unwrap();
        inspected(&path).to_string()
    };
    assert!(look("share.bak", &good).contains("WRONG         the file's name is no share number"));
    assert!(look("2", &good).contains("WRONG         the share hash chain lacks node"));
    assert!(look("1", &good[..200]).contains("is not within the share's 116 bytes"));
    let mut lying = good.clone();
    lying[12 + 0x20..12 + 0x24].copy_from_slice(&[0xff; 4]);
    assert!(look("1", &lying).contains("at offset 4294967295, is not within"));
    // Any flipped bit of the container's header, table, chain or UEB: no panic.
    for bit in (0..(12 + 0x24) * 8).chain((good.len() - 800) * 8..good.len() * 8) {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let path = grid.nodes[0].join("1");
        fs::write(&path, bytes).unwrap();
        if let Ok(inspection) = inspect(&path, false, &Progress::hidden()) {
            assert!(!inspection.to_string().is_empty());
        }
    }
    assert!(!recognises(&grid.nodes[0]));
    assert!(!recognises(&grid.nodes[0].join("nothing")));
}
