//! Three hundred made-up documents with fields of every kind, in several segments and partly deleted, and their tokens in plain Rust.

use std::sync::{LazyLock, Mutex};

use docstore::mapping::MappingOptions;
use docstore::{DocumentSnapshot, Mapping};
use serde_json::{Map, Value, json};

use super::Fixture;

pub const WORDS: [&str; 14] =
    ["torn", "write", "crash", "crush", "clash", "page", "pages", "log", "it", "fsync", "writer", "pager", "a", "logs"];
pub const KINDS: [&str; 3] = ["bug", "fix", "note"];

/// Xorshift: every failure is its seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % limit as u64).unwrap()
    }

    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    pub fn words(&mut self, max: usize) -> String {
        (0..self.below(max)).map(|_| self.of(&WORDS)).collect::<Vec<_>>().join(" ")
    }
}

#[derive(Clone, Debug)]
pub struct Doc {
    pub id: String,
    pub body: String,
    pub title: String,
    pub code: String,
    pub tags: Vec<String>,
    pub size: Option<i64>,
    /// Whole numbers around 2^53, halves, or nothing.
    pub count: Option<Count>,
    pub at_millis: Option<i64>,
    pub ok: Option<bool>,
    pub addr: Option<[u8; 4]>,
    pub kind: Option<&'static str>,
    pub loose: Vec<(String, Value)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Count {
    Whole(i64),
    /// So many halves, an odd number.
    Halves(i32),
}

impl Doc {
    pub fn json(&self) -> Value {
        let mut doc = Map::new();
        doc.insert("body".into(), json!(self.body));
        doc.insert("title".into(), json!(self.title));
        doc.insert("code".into(), json!(self.code));
        doc.insert("tags".into(), json!(self.tags));
        doc.insert("size".into(), json!(self.size));
        match self.count {
            Some(Count::Whole(whole)) => doc.insert("count".into(), json!(whole)),
            Some(Count::Halves(halves)) => doc.insert("count".into(), json!(f64::from(halves) / 2.0)),
            None => doc.insert("count".into(), json!("not a number")),
        };
        if let Some(millis) = self.at_millis {
            let at = if millis % 2 == 0 { json!(millis) } else { json!(millis.to_string()) };
            doc.insert("at".into(), at);
        }
        doc.insert("ok".into(), json!(self.ok));
        if let Some([a, b, c, d]) = self.addr {
            doc.insert("net".into(), json!({"addr": format!("{a}.{b}.{c}.{d}")}));
        }
        doc.insert("kind".into(), json!(self.kind));
        let mut deep = Map::new();
        self.loose.iter().for_each(|(name, value)| drop(deep.insert(name.clone(), value.clone())));
        doc.insert("x".into(), Value::Object(deep));
        Value::Object(doc)
    }

    pub fn text(&self, field: &str) -> &str {
        match field {
            "body" => &self.body,
            "title" => &self.title,
            _ => &self.code,
        }
    }

    pub fn loose(&self, name: &str) -> Option<&Value> {
        self.loose.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

pub fn tokens(text: &str) -> Vec<String> {
    text.split(|char: char| !char.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

/// Whether a word of a document matches a word that is looked for, by the analyzer of the field.
pub fn word_matches(field: &str, word: &str, wanted: &str) -> bool {
    let chars = wanted.chars().count();
    match field {
        "title" if chars >= 2 => word.starts_with(&wanted[..chars.min(5)]),
        "code" if chars >= 2 => {
            let pieces = wanted.as_bytes().windows(chars.min(3));
            pieces.map(|piece| std::str::from_utf8(piece).unwrap()).all(|piece| word.contains(piece))
        }
        _ => word == wanted,
    }
}

pub fn has_word(doc: &Doc, field: &str, wanted: &str) -> bool {
    tokens(doc.text(field)).iter().any(|word| word_matches(field, word, wanted))
}

pub fn has_phrase(doc: &Doc, field: &str, words: &[String]) -> bool {
    let tokens = tokens(doc.text(field));
    !words.is_empty()
        && tokens.windows(words.len()).any(|run| run.iter().zip(words).all(|(word, wanted)| word_matches(field, word, wanted)))
}

pub fn mapping() -> Mapping {
    let options = MappingOptions {
        search: Some("body, title:edge_ngram(2,5), code:ngram(2,3)"),
        facets: Some("tags, size"),
        fields: Some("count:number, at:date, ok:boolean, net.addr:ip, kind:keyword"),
        dynamic: Some("3"),
        ..MappingOptions::default()
    };
    Mapping::from_options(&options).unwrap()
}

pub struct Corpus {
    pub docs: Vec<Doc>,
    pub snapshot: DocumentSnapshot,
    pub dir: tempfile::TempDir,
    _fixture: Mutex<Fixture>,
}

pub static CORPUS: LazyLock<Corpus> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(dir.path(), mapping());
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut docs: Vec<Doc> = (0..360).map(|n| doc(n, &mut random)).collect();
    for (n, doc) in docs.iter().enumerate() {
        fixture.put(&doc.id, &doc.json());
        if n % 70 == 69 {
            fixture.commit();
        }
    }
    let dead: Vec<_> = docs.iter().step_by(6).map(|doc| (doc.id.clone(), None)).collect();
    fixture.apply(&dead);
    docs.retain(|doc| !dead.iter().any(|(id, _)| *id == doc.id));
    let snapshot = fixture.save();
    assert_eq!((snapshot.count(), docs.len()), (300, 300));
    Corpus { docs, snapshot, dir, _fixture: Mutex::new(fixture) }
});

pub fn doc(n: usize, random: &mut Random) -> Doc {
    // The first documents have all of the paths that get fields of their own.
    let names: &[&str] = if n == 0 { &["p", "q", "r"] } else { &["p", "q", "r", "s", "t", "u"] };
    let loose = names.iter().filter(|_| n == 0 || random.0.is_multiple_of(2)).copied().collect::<Vec<_>>();
    let loose = loose.into_iter().map(|name| {
        let value = match random.below(4) {
            0 => json!(random.of(&WORDS)),
            1 => json!(random.below(20)),
            2 => json!(random.below(2) == 0),
            _ => json!([random.of(&WORDS), random.of(&WORDS)]),
        };
        (name.to_owned(), value)
    });
    let loose: Vec<_> = loose.collect();
    Doc {
        id: format!("d{n:03}"),
        body: random.words(12),
        title: random.words(5),
        code: random.words(4),
        tags: (0..random.below(3)).map(|_| format!("tag{}", random.below(4))).collect(),
        size: (random.below(5) > 0).then(|| i64::try_from(random.below(60)).unwrap() - 20),
        count: match random.below(4) {
            0 => None,
            1 => Some(Count::Halves(i32::try_from(random.below(20)).unwrap() * 2 - 19)),
            2 => Some(Count::Whole(i64::try_from(random.below(20)).unwrap() - 10)),
            _ => Some(Count::Whole((1 << 53) + i64::try_from(random.below(6)).unwrap())),
        },
        at_millis: (random.below(5) > 0).then(|| 1_700_000_000_000 + i64::try_from(random.below(30)).unwrap() * 1_001),
        ok: random.of(&[None, Some(true), Some(false)]),
        addr: (random.below(4) > 0)
            .then(|| [10, 0, u8::try_from(random.below(3)).unwrap(), u8::try_from(random.below(5)).unwrap()]),
        kind: random.of(&[None, Some(KINDS[0]), Some(KINDS[1]), Some(KINDS[2])]),
        loose,
    }
}
