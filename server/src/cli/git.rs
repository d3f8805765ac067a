//! A git history as records: one per commit, one per changed file.
//!
//! Runs `git log` once and reads its NUL-separated output as it comes. Used by `import git` and `demo`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

/// Each field ends with a NUL; the one behind `%b` is git's own, which `-z` puts between commits.
const FORMAT: &str = "tformat:%H%x00%P%x00%an%x00%at%x00%ct%x00%s%x00%b";
/// Characters of an abbreviated commit.
const HASH_CHARS: usize = 12;

/// A commit and the files it changed.
pub struct Commit {
    hash: String,
    parents: Vec<String>,
    author: String,
    authored: i64,
    committed: i64,
    subject: String,
    body: String,
    changes: Vec<Change>,
}

struct Change {
    path: String,
    added: u64,
    removed: u64,
}

impl Commit {
    /// The record of the commit, as a JSON line.
    pub fn to_line(&self, repo: &str) -> String {
        let (added, removed) = self.changes.iter().fold((0, 0), |(a, r), change| (a + change.added, r + change.removed));
        let record = CommitRecord {
            repo,
            commit: &self.hash,
            parents: &self.parents,
            author: &self.author,
            authored: self.authored,
            ts: self.committed,
            subject: &self.subject,
            body: &self.body,
            files: self.changes.len(),
            added,
            removed,
        };
        to_line(&record)
    }

    /// The records of its changes, as JSON lines.
    pub fn change_lines(&self, repo: &str) -> impl Iterator<Item = String> {
        self.changes.iter().map(move |change| {
            let Change { path, added, removed } = change;
            to_line(&ChangeRecord { repo, commit: &self.hash, path, added: *added, removed: *removed, ts: self.committed })
        })
    }
}

#[derive(Serialize)]
struct CommitRecord<'a> {
    repo: &'a str,
    commit: &'a str,
    parents: &'a [String],
    author: &'a str,
    authored: i64,
    ts: i64,
    subject: &'a str,
    body: &'a str,
    files: usize,
    added: u64,
    removed: u64,
}

#[derive(Serialize)]
struct ChangeRecord<'a> {
    repo: &'a str,
    commit: &'a str,
    path: &'a str,
    added: u64,
    removed: u64,
    ts: i64,
}

fn to_line(record: &impl Serialize) -> String {
    serde_json::to_string(record).expect("texts and numbers are JSON")
}

/// The history of a repository, oldest commit first.
pub struct History {
    /// The name of the repository's folder.
    pub repo: String,
    /// Commits there are.
    pub commits: u64,
    child: Child,
    parser: Parser<BufReader<ChildStdout>>,
}

impl History {
    /// Opens the history of the repository that `path` lies in.
    ///
    /// # Errors
    /// When there is no git, no repository, or no commit in it.
    pub fn open(path: &Path) -> Result<Self> {
        let top = git(path, &["rev-parse", "--show-toplevel"]).or_else(|_| git(path, &["rev-parse", "--absolute-git-dir"]))?;
        let name = Path::new(&top).file_name().map(|name| name.to_string_lossy().trim_end_matches(".git").to_owned());
        let commits = git(path, &["rev-list", "--count", "HEAD"]).context("the repository has no commit")?;
        let mut child = Command::new("git")
            .arg("-C")
            .arg(path)
            .args(["-c", "i18n.logOutputEncoding=UTF-8", "log", "--reverse", "--numstat", "--no-renames", "-z"])
            .arg(format!("--format={FORMAT}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("running git")?;
        let output = child.stdout.take().context("git has no output")?;
        let parser = Parser { input: BufReader::with_capacity(256 << 10, output), pending: None };
        let repo = name.filter(|name| !name.is_empty()).unwrap_or_else(|| "repository".to_owned());
        Ok(Self { repo, commits: commits.parse().context("git counted no commits")?, child, parser })
    }

    /// The next commit; `None` after the last.
    ///
    /// # Errors
    /// When git fails or says what we don't understand.
    pub fn next(&mut self) -> Result<Option<Commit>> {
        let commit = self.parser.next()?;
        if commit.is_none() {
            let status = self.child.wait().context("waiting for git")?;
            ensure!(status.success(), "git log ended with {status}");
        }
        Ok(commit)
    }
}

impl Drop for History {
    fn drop(&mut self) {
        // It has ended already, or nobody reads it any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn git(path: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git").arg("-C").arg(path).args(arguments).stdin(Stdio::null()).output();
    let output = output.context("running git; is it installed?")?;
    if !output.status.success() {
        bail!("{}: {}", path.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

struct Parser<R> {
    input: R,
    /// The hash that ended the changes of the commit before.
    pending: Option<String>,
}

impl<R: BufRead> Parser<R> {
    fn token(&mut self) -> Result<Option<String>> {
        let mut token = Vec::new();
        if self.input.by_ref().read_until(0, &mut token).context("reading from git")? == 0 {
            return Ok(None);
        }
        if token.last() == Some(&0) {
            token.pop();
        }
        Ok(Some(String::from_utf8_lossy(&token).into_owned()))
    }

    fn field(&mut self) -> Result<String> {
        self.token()?.context("the output of git ends in the middle of a commit")
    }

    fn next(&mut self) -> Result<Option<Commit>> {
        let hash = match self.pending.take() {
            Some(hash) => hash,
            None => match self.token()? {
                Some(hash) => hash,
                None => return Ok(None),
            },
        };
        let short = |hash: &str| hash.chars().take(HASH_CHARS).collect::<String>();
        let parents = self.field()?.split_whitespace().map(short).collect();
        let author = self.field()?;
        let seconds = |text: String| text.parse::<i64>().with_context(|| format!("\"{text}\" from git is not a time"));
        let (authored, committed) = (seconds(self.field()?)?, seconds(self.field()?)?);
        let (subject, body) = (self.field()?, self.field()?.trim_end().to_owned());
        let mut changes = Vec::new();
        while let Some(token) = self.token()? {
            let token = token.trim_start_matches('\n');
            if token.is_empty() {
                continue;
            }
            // A change has tabs, the next commit's hash has none.
            let Some((added, rest)) = token.split_once('\t') else {
                self.pending = Some(token.to_owned());
                break;
            };
            let (removed, path) = rest.split_once('\t').context("git gave a change without a path")?;
            // Binary files have dashes for numbers.
            let lines = |text: &str| text.parse().unwrap_or(0);
            changes.push(Change { path: path.to_owned(), added: lines(added), removed: lines(removed) });
        }
        Ok(Some(Commit { hash: short(&hash), parents, author, authored, committed, subject, body, changes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_git_is_read_commit_by_commit() {
        let hash = |c: char| std::iter::repeat_n(c, 40).collect::<String>();
        let (a, b, c) = (hash('a'), hash('b'), hash('c'));
        // A commit with changes, a merge without any and without a body, and one more.
        let text = format!(
            "{a}\0\0Ann\x001\x002\0one\0body\nof it\n\0\n3\t1\tsrc/a b.rs\0-\t-\tlogo.png\0\
             {b}\0{a} {c}\0Bob\x003\x004\0two\0\0{c}\0{b}\0Ann\x005\x006\0three\0\0\n1\t0\tx\0"
        );
        let mut parser = Parser { input: text.as_bytes(), pending: None };
        let first = parser.next().unwrap().unwrap();
        assert_eq!(
            first.to_line("r"),
            r#"{"repo":"r","commit":"aaaaaaaaaaaa","parents":[],"author":"Ann","authored":1,"ts":2,"subject":"one","body":"body\nof it","files":2,"added":3,"removed":1}"#
        );
        let lines: Vec<String> = first.change_lines("r").collect();
        assert_eq!(lines[0], r#"{"repo":"r","commit":"aaaaaaaaaaaa","path":"src/a b.rs","added":3,"removed":1,"ts":2}"#);
        let second = parser.next().unwrap().unwrap();
        assert_eq!((second.parents, second.changes.len()), (vec!["a".repeat(12), "c".repeat(12)], 0));
        assert_eq!(parser.next().unwrap().unwrap().subject, "three");
        assert!(parser.next().unwrap().is_none());
    }
}
