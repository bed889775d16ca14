//! Makes files cold, and describes the disk that they are on.

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
/// How long pages may stay in the page cache after they were dropped.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two checks.
const PAUSE: Duration = Duration::from_millis(20);

/// Drops the files' pages from the page cache, and checks that they are gone. Pages that are still being read ahead for
/// a client that has left cannot be dropped yet.
pub(crate) fn drop_pages(files: &[PathBuf]) -> anyhow::Result<()> {
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

/// The number of the file's pages in the page cache. They are counted by the kernel: a read that does not wait would
/// also tell, but it starts reading the pages that it does not find, here one and there one, and these cut up later
/// readahead.
fn cached(file: &File) -> anyhow::Result<u64> {
    let bytes = file.metadata()?.len();
    if bytes == 0 {
        return Ok(0);
    }
    let (cached, _) = cached_pages(file.as_fd(), &(0..bytes))
        .context("the kernel doesn't tell what is in the page cache: Linux 6.5 does")?;
    Ok(cached)
}

/// Makes files cold: reads them once from the disk, then drops their pages. So the pages were free only just before
/// they are needed. A virtual machine hands pages that are free for long to its host, and getting them back page by
/// page takes longer than reading a fast disk. Also, if the host has a cache, it then holds the files for every
/// competitor.
pub(crate) fn chill(files: &[PathBuf]) -> anyhow::Result<()> {
    drop_pages(files)?;
    let mut chunk = vec![0; READ_BYTES];
    for path in files {
        let mut file =
            File::open(path).with_context(|| format!("can't open {}", path.display()))?;
        while file.read(&mut chunk)? > 0 {}
    }
    drop_pages(files)
}

/// The kernel's description of the disk that holds a directory.
pub(crate) fn describe(directory: &Path) -> anyhow::Result<String> {
    let device = std::fs::metadata(directory)?.dev();
    let link = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    let Ok(place) = std::fs::canonicalize(&link) else {
        return Ok("unknown".to_owned());
    };
    // The disk of a partition is the directory above.
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
