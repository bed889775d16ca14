//! Stores whose disks hang, fail, lie and go away under a running server.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::faultfs::{self, Errno, Op};
use common::wait_until;

/// The file system that the other tests rely on does what its rules say.
#[test]
fn the_faults_are_what_the_rules_say() {
    let root = tempfile::tempdir().unwrap();
    let (backing, place) = (root.path().join("backing"), root.path().join("mounted"));
    for directory in [&backing, &place] {
        fs::create_dir(directory).unwrap();
    }
    let mut disk = match faultfs::mount(&backing, &place) {
        Ok(disk) => disk,
        Err(why) => return common::skip(&why),
    };
    // Everything that a put does.
    fs::create_dir_all(place.join("a/b")).unwrap();
    let (temporary, file) = (place.join("a/new"), place.join("a/b/file"));
    let content: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
    fs::write(&temporary, &content).unwrap();
    fs::File::open(&temporary).unwrap().sync_all().unwrap();
    fs::rename(&temporary, &file).unwrap();
    fs::File::open(place.join("a")).unwrap().sync_all().unwrap();
    assert_eq!(fs::read(&file).unwrap(), content);
    assert_eq!(fs::read(backing.join("a/b/file")).unwrap(), content);
    assert_eq!(fs::read_dir(place.join("a")).unwrap().count(), 1);
    fs::write(place.join("other"), "x").unwrap();
    fs::remove_file(place.join("other")).unwrap();

    // Errors, of the kinds of calls that they are for.
    disk.read_only();
    let error = fs::write(place.join("other"), "x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(fs::read(&file).unwrap(), content);
    disk.heal();
    disk.fail(&[Op::Open], Errno::ESTALE);
    let error = fs::read(&file).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StaleNetworkFileHandle);
    disk.heal();
    disk.fail_at(&[Op::Read], "nowhere", Errno::EIO);
    disk.evict();
    assert_eq!(fs::read(&file).unwrap(), content);

    // Wrong bits show once the right ones left the page cache.
    let open = fs::File::open(&file).unwrap();
    let read = || {
        let mut bytes = vec![0; 50_000];
        open.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    disk.flip_bits_from(8192);
    assert_eq!(read(), content[..50_000], "from the page cache");
    disk.evict();
    let bytes = read();
    assert_eq!(bytes[..8192], content[..8192]);
    assert_eq!(bytes[8192], content[8192] ^ 0x10);
    disk.heal();
    disk.evict();
    assert_eq!(read(), content[..50_000]);

    // What hangs holds up nothing else, and goes on afterwards. It is another process: see `faultfs`.
    let hang = |program: &str, argument: &Path| {
        let child = Command::new(program)
            .arg(argument)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_until(|| match disk.hanging() {
            0 => Err("nothing hangs".to_owned()),
            _ => Ok(()),
        });
        child
    };
    disk.hang(&[Op::ReadDir]);
    let mut listing = hang("ls", &place.join("a"));
    assert_eq!(fs::metadata(&file).unwrap().len(), 100_000);
    assert!(listing.try_wait().unwrap().is_none());
    disk.heal();
    assert!(listing.wait().unwrap().success());

    // A process that hangs can be killed.
    disk.hang(Op::ALL);
    let mut reading = hang("cat", &file);
    reading.kill().unwrap();
    assert!(!reading.wait().unwrap().success());

    disk.heal();
    disk.delay(&[Op::Read], Duration::from_millis(1));
    disk.unmount();
    assert!(!file.exists());
    assert!(open.read_at(&mut [0], 60_000).is_err());
    let _again = faultfs::mount(&backing, &place).unwrap();
    assert_eq!(fs::read(&file).unwrap(), content);
}
