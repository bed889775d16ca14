//! How files become cold, and what lies below them.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use penstock::io::cached_pages;
use rustix::fs::{Advice, fadvise, major, minor};

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;
/// For so long pages may stay,
const PATIENCE: Duration = Duration::from_secs(2);
/// and so often it is looked again.
const PAUSE: Duration = Duration::from_millis(20);

/// Has the kernel forget the files' pages, and looks whether it did: what is still being read ahead for
/// somebody who is gone can't be forgotten yet.
pub(crate) fn give_up(files: &[PathBuf]) -> anyhow::Result<()> {
    for path in files {
        let file = File::open(path).with_context(|| format!("can't open {}", path.display()))?;
        let begun = Instant::now();
        loop {
            fadvise(&file, 0, None, Advice::DontNeed)?;
            let pages = cached(&file)?;
            if pages == 0 {
                break;
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "{pages} pages of {} are still in the page cache: give a --dir on a disk (tmpfs has none)",
                path.display(),
            );
            sleep(PAUSE);
        }
    }
    Ok(())
}

/// Pages of the file that are in the page cache. They are counted: a read that doesn't wait would tell as well, but
/// it has what it does not find read in, a page here and a page there, and what is read ahead later is cut up by them.
fn cached(file: &File) -> anyhow::Result<u64> {
    let bytes = file.metadata()?.len();
    if bytes == 0 {
        return Ok(0);
    }
    let (cached, _) = cached_pages(file.as_fd(), &(0..bytes))
        .context("the kernel doesn't tell what is in the page cache: Linux 6.5 does")?;
    Ok(cached)
}

/// Makes files cold: has them read once from the disk, and given up. So their pages were free just before they
/// are needed: a virtual machine hands what is free for long to its host, and to get that back, page by page,
/// takes longer than to read a fast disk. And a cache of the host, if there is one, has them for everybody.
pub(crate) fn chill(files: &[PathBuf]) -> anyhow::Result<()> {
    give_up(files)?;
    let mut chunk = vec![0; READ_BYTES];
    for path in files {
        let mut file =
            File::open(path).with_context(|| format!("can't open {}", path.display()))?;
        while file.read(&mut chunk)? > 0 {}
    }
    give_up(files)
}

/// What the kernel says of the disk that holds a directory.
pub(crate) fn describe(directory: &Path) -> anyhow::Result<String> {
    let device = std::fs::metadata(directory)?.dev();
    let link = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    let Ok(place) = std::fs::canonicalize(&link) else {
        return Ok("unknown".to_owned());
    };
    // A partition has its disk above it.
    let disk = match place.join("queue").is_dir() {
        true => place.as_path(),
        false => place.parent().unwrap_or(&place),
    };
    let setting = |name: &str| {
        let text = std::fs::read_to_string(disk.join("queue").join(name)).unwrap_or_default();
        format!("{name} {}", text.trim())
    };
    let name = disk.file_name().unwrap_or_default().to_string_lossy();
    Ok([
        name.into_owned(),
        setting("read_ahead_kb"),
        setting("scheduler"),
        setting("max_sectors_kb"),
    ]
    .join("; "))
}
