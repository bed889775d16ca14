//! A walk over all objects of the stores, which may be slowed down, stopped and continued by the next run.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{During, FileError};
use crate::pace::Pace;
use crate::store::{self, Found, Lister, RejectReason, Rejected, Store};
use crate::temp::replace_file;

/// How a run over all objects of the stores goes. By default it is as fast as it can, from the first object to the last.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    /// Bytes of share files that are read per second at most. Also holds for one object.
    pub rate: Option<u64>,
    /// A file that keeps where the walk is. A run starts behind the object that it names, goes on at the beginning after
    /// the last object, and ends where it started.
    pub cursor: Option<PathBuf>,
    /// The run ends with the object during which this time is over.
    pub time_max: Option<Duration>,
    /// The run ends with the object in which so many bytes of share files have been read.
    pub bytes_max: Option<u64>,
}

/// What a walk comes by.
pub(crate) enum Step<'a> {
    /// An object.
    Object(&'a Found),
    /// What has no business in a store: the store's index, and the path.
    Stray(usize, PathBuf),
    /// A directory that can't be listed.
    Unlisted(Rejected),
}

/// How often the cursor is written at least: what a run that is killed does again.
const CURSOR_AGE: Duration = Duration::from_secs(5);

impl Walk {
    /// The pace of the reads.
    pub(crate) fn pace(&self) -> Pace {
        Pace::new(self.rate)
    }

    /// Calls `visit` for each object in the stores in the order of the directories' names, beginning where the cursor
    /// says. Returns whether all were visited.
    ///
    /// # Errors
    /// What `visit` returns, or if the cursor can't be read or written.
    pub(crate) fn go<E: From<FileError>>(
        &self,
        stores: &[Store],
        pace: &Pace,
        visit: &mut dyn FnMut(Step<'_>) -> Result<(), E>,
    ) -> Result<bool, E> {
        let start = Instant::now();
        let mut cursor = match &self.cursor {
            Some(path) => Cursor::load(path)?,
            None => Cursor::default(),
        };
        let from = cursor.position.after.clone();
        let first = from
            .as_deref()
            .and_then(|after| u8::from_str_radix(&after[..2], 16).ok())
            .unwrap_or(0);
        let (mut lister, mut others) = Lister::start(stores);
        // The directory in which it starts comes twice: first what is behind the cursor, in the end what is before.
        for turn in 0..=usize::from(from.is_some()) + 255 {
            let mut listing = lister.list(first.wrapping_add(turn as u8));
            if turn < 256 {
                others.strays.append(&mut listing.strays);
                others.unlisted.append(&mut listing.unlisted);
                for (store, path) in others.strays.drain(..) {
                    visit(Step::Stray(store, path))?;
                }
                for (store, path, error) in others.unlisted.drain(..) {
                    let reason = RejectReason::Io(error);
                    visit(Step::Unlisted(Rejected {
                        store,
                        path,
                        reason,
                    }))?;
                }
            }
            for found in listing.into_found() {
                let behind = Some(&found.dir) > from.as_ref();
                if (turn == 0 && !behind) || (turn == 256 && behind) {
                    continue;
                }
                if self.is_over(start, pace) && cursor.moved {
                    cursor.save()?;
                    return Ok(false);
                }
                visit(Step::Object(&found))?;
                cursor.pass(found.dir)?;
            }
        }
        cursor.save()?;
        Ok(true)
    }

    fn is_over(&self, start: Instant, pace: &Pace) -> bool {
        self.time_max.is_some_and(|most| start.elapsed() >= most)
            || self.bytes_max.is_some_and(|most| pace.bytes() >= most)
    }
}

/// What a cursor's file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Position {
    /// The directory of the object that was visited last.
    after: Option<String>,
}

/// Where the walk is, and the file that keeps it.
#[derive(Default)]
struct Cursor<'a> {
    path: Option<&'a Path>,
    position: Position,
    /// Whether an object was visited.
    moved: bool,
    /// When the file was written.
    saved: Option<Instant>,
}

const CURSOR_HEAD: &str = "\
    # Where a walk over the stores is: the next run goes on behind this object's directory.\n";
/// A longer file is no cursor.
const CURSOR_BYTES_MAX: u64 = 4096;

impl Cursor<'_> {
    /// Reads the file. One that is something else is not overwritten.
    fn load(path: &Path) -> Result<Cursor<'_>, FileError> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it is not a cursor of penstock");
        let position = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Position::default(),
            Err(error) => return Err(error).during("read", path),
            Ok(found) if !found.is_file() || found.len() > CURSOR_BYTES_MAX => {
                return Err(wrong()).during("read", path);
            }
            Ok(_) => {
                let text = fs::read_to_string(path).during("read", path)?;
                let position = toml::from_str(&text).ok().filter(Position::is_valid);
                position.ok_or_else(wrong).during("read", path)?
            }
        };
        let cursor = Cursor {
            path: Some(path),
            position,
            moved: false,
            saved: None,
        };
        // A place that can't be written is told before the work and not after it.
        cursor.write()?;
        Ok(cursor)
    }

    /// Notes that the object in `dir` was visited.
    fn pass(&mut self, dir: String) -> Result<(), FileError> {
        self.position.after = Some(dir);
        self.moved = true;
        match self.saved {
            Some(saved) if saved.elapsed() < CURSOR_AGE => Ok(()),
            _ => self.save(),
        }
    }

    fn save(&mut self) -> Result<(), FileError> {
        self.saved = Some(Instant::now());
        self.write()
    }

    fn write(&self) -> Result<(), FileError> {
        let Some(path) = self.path else {
            return Ok(());
        };
        let text = toml::to_string(&self.position).expect("a position is plain text");
        replace_file(path, |file| {
            file.write_all(CURSOR_HEAD.as_bytes())
                .and_then(|()| file.write_all(text.as_bytes()))
                .during("write", path)
        })
    }
}

impl Position {
    fn is_valid(&self) -> bool {
        let is_dir = |dir: &String| {
            let hex = |text: &str| u8::from_str_radix(text, 16).is_ok();
            dir.split_once('/').is_some_and(|(first, rest)| {
                first.len() == 2 && hex(first) && store::is_object_dir(rest)
            })
        };
        self.after.as_ref().is_none_or(is_dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store with these objects: their directories' names.
    fn store(firsts: &[u8]) -> (tempfile::TempDir, Vec<String>) {
        let root = tempfile::tempdir().unwrap();
        let name = |(i, first): (usize, &u8)| format!("{first:02x}/{i:062x}");
        let dirs: Vec<_> = firsts.iter().enumerate().map(name).collect();
        for dir in &dirs {
            fs::create_dir_all(store::objects_dir(&root.path().join("store")).join(dir)).unwrap();
        }
        (root, dirs)
    }

    /// Runs once: what was visited, each object counting as ten bytes, and whether that was all.
    fn run(root: &Path, bytes_max: Option<u64>) -> (Vec<String>, bool) {
        let walk = Walk {
            cursor: Some(root.join("cursor")),
            bytes_max,
            ..Walk::default()
        };
        let (pace, mut visited) = (walk.pace(), Vec::new());
        let whole = walk
            .go::<FileError>(
                &Store::directories([root.join("store")]),
                &pace,
                &mut |step| {
                    if let Step::Object(found) = step {
                        visited.push(found.dir.clone());
                        pace.wait(10);
                    }
                    Ok(())
                },
            )
            .unwrap();
        (visited, whole)
    }

    #[test]
    fn runs_go_on_where_the_last_one_stopped() {
        // Several in one directory, at both ends too.
        let (root, dirs) = store(&[0, 0, 7, 7, 7, 255]);
        let mut visited = Vec::new();
        for _ in 0..6 {
            let (part, whole) = run(root.path(), Some(15));
            assert!(part.len() == 2 && !whole, "{part:?}");
            visited.extend(part);
        }
        assert_eq!(visited, [&dirs[..], &dirs[..]].concat());
        // A run that isn't stopped visits each once, from the cursor on: now in the middle of a directory.
        assert_eq!(run(root.path(), Some(35)).0, dirs[..4]);
        let (all, whole) = run(root.path(), None);
        assert_eq!(all, [&dirs[4..], &dirs[..4]].concat());
        assert!(whole);
        // However little a run may read, it gets on.
        assert_eq!(run(root.path(), Some(0)).0, dirs[4..5]);
    }

    #[test]
    fn an_object_that_is_gone_is_still_a_place() {
        let (root, dirs) = store(&[3, 9]);
        assert_eq!(run(root.path(), Some(10)).0, dirs[..1]);
        fs::remove_dir_all(store::objects_dir(&root.path().join("store")).join(&dirs[0])).unwrap();
        let (rest, whole) = run(root.path(), None);
        assert!(rest == dirs[1..] && whole, "{rest:?}");
    }

    #[test]
    fn a_file_that_is_no_cursor_is_left_alone() {
        let (root, _) = store(&[1]);
        let path = root.path().join("cursor");
        let long = format!("after = \"{}\"", "0".repeat(65));
        for text in [
            "precious = 1",
            "after = \"xy/z\"",
            "after = \"é\"",
            "\0",
            &long,
        ] {
            fs::write(&path, text).unwrap();
            let error = Cursor::load(&path).err().unwrap().to_string();
            assert!(error.contains("not a cursor"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert!(Cursor::load(&root.path().join("no/cursor")).is_err());
        assert!(Cursor::load(root.path()).is_err());
    }

    #[test]
    fn strays_and_what_cannot_be_listed_come_once() {
        let (root, _) = store(&[7]);
        run(root.path(), None);
        let objects = store::objects_dir(&root.path().join("store"));
        fs::write(objects.join("07/.DS_Store"), "").unwrap();
        fs::create_dir(objects.join("lost")).unwrap();
        std::os::unix::fs::symlink("08", objects.join("08")).unwrap();
        let walk = Walk {
            cursor: Some(root.path().join("cursor")),
            ..Walk::default()
        };
        let (mut strays, mut unlisted) = (0, 0);
        let stores = Store::directories([root.path().join("store")]);
        walk.go::<FileError>(&stores, &walk.pace(), &mut |step| {
            match step {
                Step::Stray(..) => strays += 1,
                Step::Unlisted(_) => unlisted += 1,
                Step::Object(_) => {}
            }
            Ok(())
        })
        .unwrap();
        assert_eq!((strays, unlisted), (2, 1));
    }
}
