//! No circle of files: nowhere does a file import what, over other files, imports it again.
//!
//! A file imports those that define what it names, in a `use` or in its code. So
//!
//! - a name that another file passes on by `pub use` leads to the file that defines it. The one that passes it on imports
//!   it only if its own code names it, too;
//! - a module that is named is no import by itself, only what is taken out of it. `mod child;` is none either: but
//!   a parent whose code uses its child while the child uses what the parent's own file defines is a circle, as between
//!   any two files. What both use has a place below both, in a third file;
//! - code for tests alone does not count.
//!
//! What needs no name, such as the call of a method, is not seen, nor what a `*` brings. Macros are read as they stand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use super::source::{Import, Source};

/// A crate: its modules, the root first. Modules are told by their number.
struct Crate {
    modules: Vec<Module>,
}

struct Module {
    file: PathBuf,
    parent: usize,
    children: BTreeMap<String, usize>,
    source: Source,
}

/// Which files a file imports, and by which path.
type Imports = BTreeMap<PathBuf, BTreeMap<PathBuf, String>>;

impl Crate {
    /// Reads a crate from its root, `lib.rs` or `main.rs`, on.
    fn read(root: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Crate {
        let mut found = Crate {
            modules: Vec::new(),
        };
        let dir = root.parent().expect("a root is in a folder");
        let text = read(root).unwrap_or_else(|| panic!("no {}", root.display()));
        found.add(root, dir, &text, 0, read);
        found
    }

    /// Adds a module and those that it declares, which are in `dir`.
    fn add(
        &mut self,
        file: &Path,
        dir: &Path,
        text: &str,
        parent: usize,
        read: &dyn Fn(&Path) -> Option<String>,
    ) -> usize {
        let this = self.modules.len();
        let source = Source::read(text);
        let declared = source.modules.clone();
        self.modules.push(Module {
            file: file.to_owned(),
            parent,
            children: BTreeMap::new(),
            source,
        });
        for name in declared {
            let inner = dir.join(&name);
            let places = [inner.with_extension("rs"), inner.join("mod.rs")];
            let mut files = places.iter();
            let (file, text) = files
                .find_map(|file| Some((file, read(file)?)))
                .unwrap_or_else(|| panic!("{} has no file for `mod {name}`", file.display()));
            let child = self.add(file, &inner, &text, this, read);
            self.modules[this].children.insert(name, child);
        }
        this
    }

    /// The module whose file defines what a path in a module stands for; `None` if that is a module itself, or of another
    /// crate.
    fn definer(&self, module: usize, path: &[String]) -> Option<usize> {
        let mut here = module;
        for (at, name) in path.iter().enumerate() {
            match &**name {
                "crate" => here = 0,
                "self" => {}
                "super" => here = self.modules[here].parent,
                name => {
                    let Module {
                        children, source, ..
                    } = &self.modules[here];
                    let is_last = at + 1 == path.len();
                    let import = source.imports.iter().find(|import| import.name == name);
                    // A function may have the name of a module.
                    match (children.get(name), import) {
                        (Some(&child), None) => here = child,
                        (Some(&child), Some(_)) if !is_last => here = child,
                        (_, Some(import)) => {
                            return self.imported(here, import, &path[at + 1..]);
                        }
                        // In the module itself it may be of another crate.
                        (None, None) => return (at > 0).then_some(here),
                    }
                }
            }
        }
        None
    }

    /// The same of what an import in a module stands for, and of what is named in that.
    fn imported(&self, module: usize, import: &Import, rest: &[String]) -> Option<usize> {
        let path = &import.path;
        // Its own name is that of another crate, as in `use libc;`.
        if path[0] == import.name && !self.modules[module].children.contains_key(&path[0]) {
            return None;
        }
        self.definer(module, &[path, rest].concat())
    }

    /// Which files each file imports.
    fn imports(&self) -> Imports {
        let mut all = Imports::new();
        for (number, module) in self.modules.iter().enumerate() {
            let Source {
                imports,
                paths,
                names,
                ..
            } = &module.source;
            let used = imports
                .iter()
                .filter(|import| !import.is_passed_on || names.contains(&import.name));
            let used = used.map(|import| &import.path).chain(paths);
            let here = all.entry(module.file.clone()).or_default();
            for path in used {
                if let Some(other) = self.definer(number, path)
                    && other != number
                {
                    let other = self.modules[other].file.clone();
                    here.entry(other).or_insert_with(|| path.join("::"));
                }
            }
        }
        all
    }
}

/// The shortest way from a file back to itself.
fn way_back(imports: &Imports, from: &PathBuf) -> Option<Vec<PathBuf>> {
    let mut came_from: BTreeMap<&PathBuf, &PathBuf> = BTreeMap::new();
    let mut next = VecDeque::from([from]);
    while let Some(file) = next.pop_front() {
        for other in imports[file].keys() {
            if other == from {
                let mut way = vec![from.clone(), file.clone()];
                let mut at = file;
                while let Some(&before) = came_from.get(at) {
                    way.push(before.clone());
                    at = before;
                }
                if file == from {
                    way.pop();
                }
                way.reverse();
                return Some(way);
            }
            if !came_from.contains_key(other) {
                came_from.insert(other, file);
                next.push_back(other);
            }
        }
    }
    None
}

/// The circles, file by file: of each knot of files the shortest.
fn circles(imports: &Imports) -> Vec<String> {
    let mut ways: Vec<Vec<PathBuf>> = imports
        .keys()
        .filter_map(|file| way_back(imports, file))
        .collect();
    ways.sort_by_key(Vec::len);
    let mut told: BTreeSet<PathBuf> = BTreeSet::new();
    let mut circles = Vec::new();
    for way in ways {
        // A longer one through the same file may go when this one is mended.
        if way.iter().any(|file| told.contains(file)) {
            continue;
        }
        let steps = way.windows(2).map(|step| {
            let path = &imports[&step[0]][&step[1]];
            format!(
                "  {} names {path} of {}",
                step[0].display(),
                step[1].display()
            )
        });
        circles.push(format!("a circle:\n{}", Vec::from_iter(steps).join("\n")));
        told.extend(way);
    }
    circles
}

#[test]
fn no_files_import_each_other() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut wrong = Vec::new();
    for (root, files_least, imports_least) in [
        ("server/src/lib.rs", 150, 700),
        ("server/src/main.rs", 25, 50),
        ("decode-kernel/src/lib.rs", 40, 100),
        ("tools/store/src/lib.rs", 40, 200),
        ("tools/remote/src/lib.rs", 8, 10),
    ] {
        let read = |file: &Path| fs::read_to_string(repository.join(file)).ok();
        let imports = Crate::read(Path::new(root), &read).imports();
        let count: usize = imports.values().map(BTreeMap::len).sum();
        assert!(
            imports.len() >= files_least && count >= imports_least,
            "of {root} only {} files and {count} imports were seen",
            imports.len()
        );
        wrong.extend(circles(&imports));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The circles of a crate of such files.
fn circles_of(files: &[(&str, &str)]) -> Vec<String> {
    let read = |file: &Path| {
        let mut files = files.iter();
        let found = files.find(|(name, _)| Path::new(name) == file);
        found.map(|(_, text)| (*text).to_owned())
    };
    circles(&Crate::read(Path::new("src/lib.rs"), &read).imports())
}

#[test]
fn a_circle_is_told_file_by_file() {
    let circle = circles_of(&[
        ("src/lib.rs", "mod a; mod b; mod c;"),
        ("src/a/mod.rs", "mod inner; pub use inner::A;"),
        (
            "src/a/inner.rs",
            "use crate::b::{self, Other}; pub struct A(b::B);",
        ),
        (
            "src/b.rs",
            "pub struct B; pub struct Other; fn f() { crate::c::g() }",
        ),
        ("src/c.rs", "use super::a::A; pub fn g() {}"),
    ]);
    let told = "a circle:\n  \
        src/a/inner.rs names crate::b::Other of src/b.rs\n  \
        src/b.rs names crate::c::g of src/c.rs\n  \
        src/c.rs names super::a::A of src/a/inner.rs";
    assert_eq!(circle, [told]);
}

#[test]
fn a_function_may_have_the_name_of_its_module() {
    let circle = circles_of(&[
        ("src/lib.rs", "mod plan; pub use plan::plan; mod a;"),
        (
            "src/plan.rs",
            "use crate::a; pub fn plan() { a::f() } pub struct Plan;",
        ),
        (
            "src/a.rs",
            "use libc; use crate::plan; fn f() { plan(libc::x) }",
        ),
    ]);
    assert_eq!(circle.len(), 1);
}

#[test]
fn a_parent_and_its_child_are_files_like_others() {
    let child = "use super::Parent; pub struct Child(Parent);";
    let circle = |parent: &str| {
        let files = [
            ("src/lib.rs", "mod p; use p::Child;"),
            ("src/p/mod.rs", parent),
            ("src/p/child.rs", child),
        ];
        circles_of(&files).len()
    };
    // It declares the child, and passes it on.
    assert_eq!(
        circle("mod child; pub use child::Child; pub struct Parent;"),
        0
    );
    // It uses the child, too.
    assert_eq!(
        circle("mod child; pub struct Parent; fn f() { child::g() }"),
        1
    );
    assert_eq!(circle("mod child; use child::Child; pub struct Parent;"), 1);
    assert_eq!(
        circle("mod child; pub(crate) use child::Child; pub struct Parent; fn f(_: Child) {}"),
        1
    );
    // For its tests alone.
    let tested =
        "mod child; pub struct Parent; #[cfg(test)] mod tests { use super::child::Child; }";
    assert_eq!(circle(tested), 0);
}
