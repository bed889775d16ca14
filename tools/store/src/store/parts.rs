//! All objects of a bucket, by listing it page after page in the order of its names.
//!
//! A listing of every `ab` costs 256 requests, of an object's directory one more for each. A listing without a delimiter
//! has up to a thousand names a page, and they tell the files of each object at once. A part of it begins behind a name and
//! depends on nothing that went before, so whoever lists may stop anywhere, and go on later.

use penstock_remote::{Bucket, Entry, RemoteError};

use super::names::{is_first, is_object_dir};

/// Where all objects are.
const OBJECTS: &str = "objects/";
/// Pages of one part that may have nothing new: a store that gives more would be asked for ever.
const EMPTY_PAGES_MAX: usize = 32;

/// A file that a remote store has in an object's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name in the store, with its directory.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// What tells it from another by that name, as an entity tag.
    pub version: String,
}

/// What a bucket has of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectFiles {
    /// The object's directory, `ab/cdef…`.
    pub dir: String,
    /// All its files, in the order of their names.
    pub files: Vec<Listed>,
}

/// A part of a listing.
#[derive(Debug, Default)]
pub struct Part {
    /// Objects in the order of their directories.
    pub objects: Vec<ObjectFiles>,
    /// What has no business there, in order: a name, or what all that is wrong in the same place begins with.
    pub strays: Vec<String>,
    /// The name behind which the next part begins; `None` at the end.
    pub next: Option<String>,
}

impl From<Entry> for Listed {
    fn from(entry: Entry) -> Listed {
        Listed {
            name: entry.name,
            bytes: entry.bytes,
            version: entry.etag.unwrap_or_default(),
        }
    }
}

/// Where a name belongs.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    /// It is a file of the object in this directory.
    Object(&'a str),
    /// Nowhere. This much of it tells so.
    Stray(&'a str),
    /// Some tools make an empty file for a directory.
    Directory,
}

impl Place<'_> {
    fn of(name: &str) -> Place<'_> {
        let rest = name.strip_prefix(OBJECTS).unwrap_or(name);
        let begin = name.len() - rest.len();
        let mut parts = rest.splitn(3, '/');
        let (first, second, file) = (parts.next(), parts.next(), parts.next());
        match (first.unwrap_or_default(), second, file) {
            ("", None, None) => Place::Directory,
            (first, Some(_), _) if !is_first(first) => Place::Stray(&name[..begin + first.len()]),
            (_, None, _) => Place::Stray(name),
            (_, Some(""), None) => Place::Directory,
            (first, Some(second), _) if !is_object_dir(second) => {
                Place::Stray(&name[..begin + first.len() + 1 + second.len()])
            }
            (_, Some(_), None) => Place::Stray(name),
            (_, Some(_), Some("")) => Place::Directory,
            (first, Some(second), Some(_)) => {
                Place::Object(&rest[..first.len() + 1 + second.len()])
            }
        }
    }
}

/// The objects of a bucket whose files come behind the name `after`, as many as one page of `names_max` names tells, and
/// one at least. An object that has more than `files_max` files and fills a page is an error: no put leaves so many.
///
/// # Errors
/// The store's, or that its listing is not in the order of names.
pub async fn part(
    bucket: &Bucket,
    after: &str,
    names_max: usize,
    files_max: usize,
) -> Result<Part, RemoteError> {
    let wrong = |reason: String| bucket.wrong_answer(format!("list {OBJECTS}"), reason);
    let mut part = Part::default();
    let mut last = after.to_owned();
    // The name before those of the last object.
    let mut before = last.clone();
    // Whether the last name is one of the last object.
    let mut goes_on = false;
    let (mut token, mut empty) = (None, 0);
    loop {
        let begin = (token.is_none() && !after.is_empty()).then_some(after);
        let page = bucket.page(OBJECTS, false, begin, token, names_max).await?;
        let first = last.clone();
        for entry in page.files {
            if entry.name <= last {
                // A file that stands for a directory comes without the slash by which it was sorted.
                if !matches!(Place::of(&entry.name), Place::Object(_)) {
                    continue;
                }
                return Err(wrong(format!(
                    "its names are not in order: {:?} comes behind {last:?}",
                    entry.name
                )));
            }
            let name = std::mem::replace(&mut last, entry.name.clone());
            goes_on = false;
            match Place::of(&last) {
                Place::Object(dir) => {
                    goes_on = true;
                    match part.objects.last_mut().filter(|object| object.dir == dir) {
                        Some(object) => object.files.push(entry.into()),
                        None => {
                            before = name;
                            part.objects.push(ObjectFiles {
                                dir: dir.to_owned(),
                                files: vec![entry.into()],
                            });
                        }
                    }
                }
                Place::Stray(stray) => {
                    if part.strays.last().is_none_or(|last| last != stray) {
                        part.strays.push(stray.to_owned());
                    }
                }
                Place::Directory => {}
            }
        }
        empty += usize::from(last == first);
        if empty > EMPTY_PAGES_MAX {
            return Err(wrong("page after page without a further file".to_owned()));
        }
        token = page.next;
        if token.is_none() {
            return Ok(part);
        }
        if !goes_on && last != after {
            part.next = Some(last);
            return Ok(part);
        }
        // Of the last object the next page may have more.
        if goes_on && before != after {
            part.objects.pop();
            part.next = Some(before);
            return Ok(part);
        }
        let files = part.objects.last().map_or(0, |object| object.files.len());
        if files > files_max {
            return Err(wrong(format!("more than {files_max} files of one object")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_belong_to_objects_or_are_strays() {
        let object = format!("ab/{}", "0123456789abcdef".repeat(4)[2..].to_owned());
        for (name, place) in [
            (format!("objects/{object}/x.share"), Place::Object(&object)),
            (format!("objects/{object}/x/y"), Place::Object(&object)),
            (format!("objects/{object}/"), Place::Directory),
            ("objects/".to_owned(), Place::Directory),
            ("objects/ab/".to_owned(), Place::Directory),
            ("objects/ab".to_owned(), Place::Stray("objects/ab")),
            ("objects/x".to_owned(), Place::Stray("objects/x")),
            ("objects/AB/x".to_owned(), Place::Stray("objects/AB")),
            ("objects//x".to_owned(), Place::Stray("objects/")),
            ("objects/x/y/z".to_owned(), Place::Stray("objects/x")),
            ("objects/ab/x".to_owned(), Place::Stray("objects/ab/x")),
            ("objects/ab/x/y".to_owned(), Place::Stray("objects/ab/x")),
        ] {
            assert_eq!(Place::of(&name), place, "{name}");
        }
        let without_file = format!("objects/{object}");
        assert_eq!(Place::of(&without_file), Place::Stray(&without_file));
    }
}
