//! The house rules that a compiler does not check: who may import whom, one version of Arrow, files that say what they are.
//!
//! The edges are those of `docs/architecture.md`.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Who may import whom. Nothing else may.
const EDGES: [(&str, &[&str]); 8] = [
    ("logcore", &[]),
    ("rowstore", &["logcore"]),
    ("docstore", &["logcore"]),
    ("tsstore", &["logcore"]),
    ("router", &["logcore", "rowstore", "docstore", "tsstore"]),
    ("replication", &["logcore"]),
    ("server", &["logcore", "router", "replication"]),
    ("headwater-tests", &[]),
];

/// Dependencies that shape a build or a design, and the one crate each belongs to.
const HOMES: [(&str, &str); 14] = [
    ("crc32c", "logcore"),
    ("io-uring", "logcore"),
    ("tokio-uring", "logcore"),
    ("rustix", "logcore"),
    ("lsm-tree", "rowstore"),
    ("tantivy", "docstore"),
    ("pco", "tsstore"),
    ("datafusion", "router"),
    ("datafusion-functions-json", "router"),
    ("openraft", "replication"),
    ("axum", "server"),
    ("clap", "server"),
    ("hyper", "server"),
    ("rustyline", "server"),
];

/// Files over 800 lines, each with its reason. The list may only shrink.
const LARGE_FILES: [(&str, &str); 0] = [];
const LINES_MAX: usize = 800;

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).exec().unwrap()
}

fn root() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).parent().unwrap().to_owned()
}

fn names(package: &Package) -> BTreeSet<&str> {
    let normal = package.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development);
    normal.map(|dependency| dependency.name.as_str()).collect()
}

#[test]
fn crates_import_only_what_the_picture_shows() {
    let metadata = metadata();
    let packages: BTreeMap<&str, &Package> =
        metadata.workspace_packages().into_iter().map(|package| (package.name.as_str(), package)).collect();
    assert_eq!(packages.keys().copied().collect::<BTreeSet<_>>(), EDGES.map(|(name, _)| name).into());
    for (name, allowed) in EDGES {
        for dependency in names(packages[name]) {
            let inside = packages.contains_key(dependency);
            assert!(!inside || allowed.contains(&dependency), "{name} must not import {dependency}: see docs/architecture.md");
            let home = HOMES.iter().find(|(heavy, _)| *heavy == dependency);
            assert!(home.is_none_or(|(_, home)| *home == name), "{dependency} belongs to {home:?}, not to {name}");
        }
    }
}

#[test]
fn arrow_parquet_and_sqlparser_exist_once() {
    let metadata = metadata();
    for name in ["arrow", "arrow-array", "parquet", "sqlparser", "datafusion"] {
        let versions: Vec<String> = metadata
            .packages
            .iter()
            .filter(|package| package.name.as_str() == name)
            .map(|package| package.version.to_string())
            .collect();
        assert_eq!(versions.len(), 1, "{name}: {versions:?}");
    }
}

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn every_file_says_what_it_is_and_stays_readable() {
    let mut files = Vec::new();
    rust_files(&root(), &mut files);
    assert!(files.len() > 60, "the tree was found");
    let mut sizes = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let name = file.strip_prefix(root()).unwrap().display().to_string();
        assert!(text.starts_with("//!"), "{name} does not open with what it is");
        for word in ["todo!(", "unimplemented!(", "#[ignore"] {
            let quoted = name == "tests/tests/house.rs";
            assert!(quoted || !text.contains(word), "{name} has {word}");
        }
        sizes.push((text.lines().count(), name));
    }
    sizes.sort();
    let (largest, name) = sizes.last().unwrap();
    #[allow(clippy::print_stdout, reason = "a report, shown with --nocapture")]
    {
        println!("the largest file is {name} with {largest} lines");
    }
    for (lines, name) in &sizes {
        let allowed = LARGE_FILES.iter().any(|(large, _)| large == name);
        assert!(*lines <= LINES_MAX || allowed, "{name} has {lines} lines: split it");
        assert!(*lines > LINES_MAX || !allowed, "{name} fits again: take it off the list");
    }
}

#[test]
fn links_in_the_docs_lead_somewhere() {
    let mut pages = vec![root().join("README.md")];
    for dir in ["docs", "docs/adr"] {
        pages.extend(
            std::fs::read_dir(root().join(dir)).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()),
        );
    }
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(page.parent().unwrap().join(target).exists(), "{} links to {link}", page.display());
        }
    }
}
