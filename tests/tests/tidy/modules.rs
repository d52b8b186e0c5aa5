//! Dependency cycles between the modules of a crate.
//!
//! # The rule
//!
//! At every level, the dependencies between the children of one module form no cycle. A module
//! depends on another one if it, or a descendant of it, names a path in the other one. So if
//! `a::x` uses `b::y`, `a` depends on `b`, and nothing in `b` may use `a`.
//!
//! A module and its own children may use each other: a child is a part of its parent in a file of
//! its own, and other modules see the parent.
//!
//! # What is analysed
//!
//! `use` declarations, paths in code, and paths in the arguments of macros. A re-exported or
//! imported name is resolved: `crate::Log` is `crate::log` where the root has `pub use log::Log`.
//! A glob import is a dependency on its module only. Code for tests and for documentation does not
//! count.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, Macro, UseTree};

/// The names from the root of a crate to a module; empty for the root.
type Place = Vec<String>;

/// The modules of one crate.
#[derive(Default)]
pub(crate) struct Modules {
    modules: BTreeMap<Place, Module>,
    /// Modules that are compiled only for tests.
    test_only: BTreeSet<Place>,
}

#[derive(Default)]
struct Module {
    /// Every path in the module's code, as written.
    named: BTreeSet<Vec<String>>,
    /// The full path of each imported or re-exported name.
    imported: BTreeMap<String, Vec<String>>,
}

impl Modules {
    /// Reads the files of a crate: each by its path below `src/`, with its text.
    pub(crate) fn read<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut modules = Self::default();
        for (path, text) in files {
            let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}"));
            let mut reader = Reader { modules: &mut modules, at: place_of(path) };
            reader.modules.modules.entry(reader.at.clone()).or_default();
            reader.visit_file(&file);
        }
        let test_only = std::mem::take(&mut modules.test_only);
        let is_test_only = |place: &Place| test_only.iter().any(|test| place.starts_with(test));
        modules.modules.retain(|place, _| !is_test_only(place));
        modules
    }

    /// The cycles, each as text: its modules, and a path in the code for each dependency.
    pub(crate) fn cycles(&self) -> Vec<String> {
        let mut edges: BTreeMap<Place, Dependencies> = BTreeMap::new();
        for (from, module) in &self.modules {
            for named in &module.named {
                let Some(to) = self.resolve(from, named, 0) else { continue };
                let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
                if common < from.len() && common < to.len() {
                    let edges = edges.entry(from[..common].to_vec()).or_default();
                    let why = format!("{} names {}", shown(from), named.join("::"));
                    let between = (from[common].clone(), to[common].clone());
                    edges.entry(between).or_insert(why);
                }
            }
        }
        edges.iter().filter_map(|(parent, edges)| cycle(parent, edges)).collect()
    }

    /// The module that contains the end of a path; `None` if that is outside of the crate.
    fn resolve(&self, from: &Place, path: &[String], depth: usize) -> Option<Place> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.walk(Vec::new(), rest, depth),
            "self" => self.walk(from.clone(), rest, depth),
            "super" => {
                let (_, parent) = from.split_last()?;
                self.resolve(&parent.to_vec(), &prefixed("self", rest), depth)
            }
            _ if self.modules.contains_key(&child(from, first)) => {
                self.walk(from.clone(), path, depth)
            }
            // Another crate, a name of this file, or a name whose import is counted separately.
            _ => None,
        }
    }

    fn walk(&self, mut place: Place, path: &[String], depth: usize) -> Option<Place> {
        for (number, name) in path.iter().enumerate() {
            let inner = child(&place, name);
            if name == "super" {
                place.pop()?;
            } else if self.modules.contains_key(&inner) {
                place = inner;
            } else {
                let module = self.modules.get(&place)?;
                let target = module.imported.get(name).filter(|_| depth < 8);
                let Some(target) = target else { break };
                let mut path_on = target.clone();
                path_on.extend_from_slice(&path[number + 1..]);
                // A re-export from another crate counts as a use of this module.
                return self.resolve(&place, &path_on, depth + 1).or(Some(place));
            }
        }
        Some(place)
    }
}

/// Dependencies between the children of one module, each with an example path.
type Dependencies = BTreeMap<(String, String), String>;

/// A shortest cycle between the children of `parent`.
fn cycle(parent: &Place, edges: &Dependencies) -> Option<String> {
    let names: BTreeSet<&String> = edges.keys().map(|(from, _)| from).collect();
    let shortest = names.iter().filter_map(|start| shortest_cycle(start, edges));
    let cycle = shortest.min_by_key(Vec::len)?;
    let mut text = format!("below {}: {}", shown(parent), cycle.join(" → "));
    for pair in cycle.windows(2) {
        text += &format!("\n    {}", edges[&(pair[0].clone(), pair[1].clone())]);
    }
    Some(text)
}

/// The shortest path along dependencies from a module to itself.
fn shortest_cycle(start: &str, edges: &Dependencies) -> Option<Vec<String>> {
    let mut paths = vec![vec![start.to_owned()]];
    let mut seen = BTreeSet::new();
    while !paths.is_empty() {
        let mut longer = Vec::new();
        for path in &paths {
            let last = path.last().expect("a path has a start");
            for (_, to) in edges.keys().filter(|(from, _)| from == last) {
                let path = [&path[..], std::slice::from_ref(to)].concat();
                if to == start {
                    return Some(path);
                }
                if seen.insert(to.clone()) {
                    longer.push(path);
                }
            }
        }
        paths = longer;
    }
    None
}

fn place_of(path: &str) -> Place {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    let names = stem.split('/').map(str::to_owned);
    names.filter(|name| name != "lib" && name != "main").collect()
}

fn shown(place: &Place) -> String {
    if place.is_empty() { "the root".to_owned() } else { place.join("::") }
}

fn child(place: &Place, name: &str) -> Place {
    [&place[..], &[name.to_owned()]].concat()
}

fn prefixed(first: &str, rest: &[String]) -> Vec<String> {
    [&[first.to_owned()], rest].concat()
}

/// Whether an item is compiled only for tests or only for documentation.
fn is_test_or_doc(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let mut is_test_or_doc = false;
        if attribute.path().is_ident("cfg") {
            // A condition with a value (`feature = …`) is neither.
            let _ = attribute.parse_nested_meta(|meta| {
                is_test_or_doc |= meta.path.is_ident("test") || meta.path.is_ident("doc");
                Ok(())
            });
        }
        is_test_or_doc
    })
}

struct Reader<'a> {
    modules: &'a mut Modules,
    at: Place,
}

impl Reader<'_> {
    fn module(&mut self) -> &mut Module {
        self.modules.modules.entry(self.at.clone()).or_default()
    }

    fn name(&mut self, path: Vec<String>) {
        if path.len() > 1 {
            self.module().named.insert(path);
        }
    }

    fn import(&mut self, tree: &UseTree, path: &[String]) {
        match tree {
            UseTree::Path(inner) => {
                let path = child(&path.to_vec(), &inner.ident.to_string());
                self.import(&inner.tree, &path);
            }
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.import(tree, path));
            }
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                let (whole, name) = match (name.as_str(), path.last()) {
                    ("self", Some(last)) => (path.to_vec(), last.clone()),
                    _ => (child(&path.to_vec(), &name), name),
                };
                self.imported(name, whole);
            }
            UseTree::Rename(renamed) => {
                let whole = child(&path.to_vec(), &renamed.ident.to_string());
                self.imported(renamed.rename.to_string(), whole);
            }
            UseTree::Glob(_) => self.name(child(&path.to_vec(), "*")),
        }
    }

    fn imported(&mut self, name: String, path: Vec<String>) {
        self.name(path.clone());
        self.module().imported.insert(name, path);
    }

    /// Records the paths in the arguments of a macro that begin in this crate.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    let continues = colons == 2 && !path.is_empty();
                    let name = ident.to_string();
                    if !continues {
                        self.finish_path(&mut path);
                    }
                    if continues || ["crate", "self", "super"].contains(&name.as_str()) {
                        path.push(name);
                    }
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.finish_path(&mut path);
                    self.tokens(group.stream());
                    colons = 0;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.finish_path(&mut path);
                    colons = 0;
                }
            }
        }
        self.finish_path(&mut path);
    }

    fn finish_path(&mut self, path: &mut Vec<String>) {
        let path = std::mem::take(path);
        self.name(path);
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "syn may add kinds of items at any time")]
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Const(item) => &item.attrs,
            Item::Enum(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Macro(item) => &item.attrs,
            Item::Mod(item) => &item.attrs,
            Item::Static(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            Item::Trait(item) => &item.attrs,
            Item::Type(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        match item {
            Item::Mod(module) if is_test_or_doc(attributes) => {
                let place = child(&self.at, &module.ident.to_string());
                self.modules.test_only.insert(place);
            }
            _ if is_test_or_doc(attributes) => {}
            _ => visit::visit_item(self, item),
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if module.content.is_some() {
            self.at.push(module.ident.to_string());
            self.module();
            visit::visit_item_mod(self, module);
            self.at.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.import(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.name(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, used: &'ast Macro) {
        self.visit_path(&used.path);
        self.tokens(used.tokens.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::Modules;

    fn cycles(files: &[(&str, &str)]) -> Vec<String> {
        Modules::read(files.iter().copied()).cycles()
    }

    #[test]
    fn siblings_that_use_each_other_are_a_cycle() {
        let found = cycles(&[
            ("lib.rs", "mod log; mod open; mod size;"),
            ("log.rs", "use crate::open::open; use crate::size::Size; pub struct Log;"),
            ("open.rs", "pub fn open() -> super::log::Log { todo!() }"),
            ("size.rs", "pub struct Size(u64);"),
        ]);
        let [found] = found.as_slice() else { panic!("found {found:?}") };
        assert!(found.starts_with("below the root: log → open → log"), "{found}");
        assert!(found.contains("open names super::log::Log"), "{found}");
    }

    #[test]
    fn what_a_child_uses_is_used_by_its_parent() {
        let found = cycles(&[
            ("lib.rs", "mod log; mod recover;"),
            ("log.rs", "mod open;"),
            ("log/open.rs", "use crate::recover::{self, Found}; fn open() -> Found { todo!() }"),
            ("recover.rs", "fn recover() { vec![crate::log::Log]; }"),
        ]);
        assert_eq!(found.len(), 1, "{found:?}");
        let below = cycles(&[
            ("lib.rs", "mod log;"),
            ("log.rs", "mod open; mod scan;"),
            ("log/open.rs", "use super::scan;"),
            ("log/scan.rs", "type Opened = super::open::Opened;"),
        ]);
        let [below] = below.as_slice() else { panic!("found {below:?}") };
        assert!(below.starts_with("below log: open → scan → open"), "{below}");
    }

    #[test]
    fn a_re_export_resolves_to_its_target() {
        let found = cycles(&[
            ("lib.rs", "mod log; mod open; pub use log::inner::Log as Journal;"),
            ("log.rs", "pub mod inner; use crate::open;"),
            ("log/inner.rs", "pub struct Log;"),
            ("open.rs", "fn open() -> crate::Journal { todo!() }"),
        ]);
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn parents_and_children_tests_and_documentation_make_no_cycle() {
        let found = cycles(&[
            ("lib.rs", "mod log; mod open; mod testing; pub struct Root; use log::Log;"),
            ("log.rs", "mod tail; use tail::Tail; pub struct Log(Tail); use std::fmt;"),
            ("log/tail.rs", "use super::Log; use crate::Root;"),
            (
                "open.rs",
                "use crate::log::Log; mod log { pub use std::log::Log; } fn f() { log::Log; }",
            ),
            ("testing.rs", "use crate::open;"),
        ]);
        assert_eq!(found, Vec::<String>::new());
        let tests = cycles(&[
            ("lib.rs", "mod log; mod open;"),
            ("log.rs", "#[cfg(test)] mod tests; #[cfg(doc)] use crate::open;"),
            ("log/tests.rs", "use crate::open;"),
            ("open.rs", "use crate::log; #[cfg(test)] mod inline { use crate::log; }"),
        ]);
        assert_eq!(tests, Vec::<String>::new());
    }
}
