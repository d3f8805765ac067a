//! Configuration: one table of settings, read from a file, the environment and flags, each over the one before.
//!
//! Every setting has a dotted name (`http.listen`), which is its place in the TOML file, in the environment
//! (`HEADWATER_HTTP_LISTEN`) and in messages. The command line builds a [`Config`] once, before anything starts; `headwater config`
//! prints the effective one and where each value came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use logcore::io::probe::Backend;
use router::DatabaseOptions;

/// What every variable of ours begins with.
const ENVIRONMENT_PREFIX: &str = "HEADWATER_";
/// Variables of the command line that are not settings.
const ENVIRONMENT_OTHER: [&str; 2] = ["HEADWATER_URL", "HEADWATER_CONFIG"];

/// A number of bytes, written as `64MiB`, `1GiB` or a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// As a length in memory.
    pub fn len(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("\"{text}\" is not a size; write bytes or a number with KiB, MiB, GiB or TiB, as in 64MiB");
        let text = text.trim();
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
        let unit = text[digits.len()..].trim();
        let factor = match UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
            Some((_, factor)) => *factor,
            None if unit.is_empty() || unit == "B" => 1,
            None => return Err(bad()),
        };
        let count: u64 = digits.replace('_', "").parse().map_err(|_| bad())?;
        count.checked_mul(factor).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("\"{text}\" is not a log format; use text or json")),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// How a type of setting is read and written.
trait Value: Sized {
    fn read(text: &str) -> Result<Self, String>;
    /// As TOML.
    fn show(&self) -> String;
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

macro_rules! value {
    ($type:ty, $what:literal, plain) => {
        impl Value for $type {
            fn read(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| format!("\"{text}\" is not {}", $what))
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    };
    ($type:ty, quoted) => {
        impl Value for $type {
            fn read(text: &str) -> Result<Self, String> {
                text.parse().map_err(|error: <$type as FromStr>::Err| error.to_string())
            }

            fn show(&self) -> String {
                quoted(&self.to_string())
            }
        }
    };
}

value!(u64, "a whole number", plain);
value!(usize, "a whole number", plain);
value!(Size, quoted);
value!(Backend, quoted);
value!(LogFormat, quoted);

impl Value for String {
    fn read(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl Value for PathBuf {
    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("the path is empty".into()) } else { Ok(text.into()) }
    }

    fn show(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

struct Setting {
    name: &'static str,
    doc: &'static str,
    read: fn(&mut Values, &str) -> Result<(), String>,
    show: fn(&Values) -> String,
}

macro_rules! settings {
    ($($field:ident: $type:ty = $default:expr, $name:literal, $doc:literal;)*) => {
        /// The effective values, a field per setting.
        #[derive(Clone, Debug)]
        pub struct Values {
            $(#[doc = $doc] pub $field: $type,)*
        }

        impl Default for Values {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        const SETTINGS: &[Setting] = &[$(Setting {
            name: $name,
            doc: $doc,
            read: |values, text| {
                values.$field = <$type as Value>::read(text)?;
                Ok(())
            },
            show: |values| values.$field.show(),
        },)*];
    };
}

settings! {
    data: PathBuf = "./data".into(), "data", "the folder of all data";
    disk_io: Backend = Backend::Auto, "disk_io", "the disk backend: auto, pool, tokio-uring or uring";
    copy_dir: String = String::new(), "copy_dir", "the folder that COPY reads and writes files in; empty: COPY has no files";
    http_listen: String = "127.0.0.1:8080".into(), "http.listen", "the address of the HTTP door; port 0 takes a free one";
    http_body_bytes_max: Size = Size::mib(16), "http.body_bytes_max", "the largest body that is held in memory";
    http_ndjson_body_bytes_max: Size = Size(1 << 30), "http.ndjson_body_bytes_max", "the largest streamed body of records";
    http_connections_max: usize = 1024, "http.connections_max", "connections at a time; more wait";
    http_header_timeout_ms: u64 = 30_000, "http.header_timeout_ms", "a connection without a whole request head for so long is closed";
    log_memory_bytes_max: Size = Size::mib(256), "log.memory_bytes_max", "the budget of the RAM tier";
    log_segment_bytes: Size = Size::mib(64), "log.segment_bytes", "the length of a segment file";
    log_queue_bytes_max: Size = Size::mib(64), "log.queue_bytes_max", "batches that may wait for each owner thread";
    log_reserve_bytes: Size = Size::mib(256), "log.reserve_bytes", "free disk space below which no segment is begun";
    log_verify_bytes_per_second: Size = Size::mib(8), "log.verify_bytes_per_second", "read from sealed segments to find damage early; 0 for not at all";
    sql_timeout_ms_max: u64 = 30_000, "sql.timeout_ms_max", "the longest a statement may take";
    sql_memory_bytes_max: Size = Size::mib(256), "sql.memory_bytes_max", "memory of all running statements";
    sql_result_bytes_max: Size = Size::mib(64), "sql.result_bytes_max", "the largest result that is not streamed";
    sql_statement_bytes_max: Size = Size::mib(1), "sql.statement_bytes_max", "the longest SQL text";
    views_workers: usize = 2, "views.workers", "threads that bring views up to date";
    views_refresh_ms: u64 = 1_000, "views.refresh_ms", "a view shows what it applied at the latest after this long";
    views_checkpoint_interval_ms: u64 = 30_000, "views.checkpoint_interval_ms", "a view is made durable at the latest after this long";
    views_memory_bytes: Size = Size::mib(64), "views.memory_bytes", "the cache that all row tables share";
    views_rebuild_records_per_second_max: u64 = 0, "views.rebuild_records_per_second_max", "the speed limit of a rebuild; 0 for none";
    views_vacuum_interval_ms: u64 = 60_000, "views.vacuum_interval_ms", "how often it is looked for row tables that have grown and whose history option lets old versions go; 0 for never";
    views_vacuum_rows_per_second_max: u64 = 200_000, "views.vacuum_rows_per_second_max", "the speed limit of copying a table that is vacuumed; 0 for none";
    logs_format: LogFormat = LogFormat::Text, "logs.format", "the form of the log on stderr: text or json";
    logs_level: String = "info,lsm_tree=warn,tantivy=warn".into(), "logs.level", "what is logged, as in \"info\" or \"warn,router=debug\"";
}

/// The effective configuration and where it came from.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The values.
    pub values: Values,
    sources: BTreeMap<&'static str, String>,
}

impl Config {
    /// Reads `file` if there is one, then `environment`, then `flags` (setting, flag and value).
    ///
    /// # Errors
    /// The first setting that is unknown or has a bad value, with its place.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(&'static str, &str, String)],
    ) -> Result<Self> {
        let mut config = Self::default();
        if let Some(path) = file {
            config.read_file(path)?;
        }
        for (variable, value) in environment {
            if let Some(rest) = variable.strip_prefix(ENVIRONMENT_PREFIX) {
                if ENVIRONMENT_OTHER.contains(&variable.as_str()) {
                    continue;
                }
                let known = SETTINGS.iter().find(|setting| environment_name(setting.name) == variable);
                let Some(setting) = known else {
                    let names: Vec<String> = SETTINGS.iter().map(|setting| environment_name(setting.name)).collect();
                    let near = did_you_mean(&variable, names.iter().map(String::as_str));
                    bail!("the environment variable {ENVIRONMENT_PREFIX}{rest} is not a setting{near}");
                };
                config.set(setting, &value, format!("environment {variable}"))?;
            }
        }
        for (name, flag, value) in flags {
            let setting = SETTINGS.iter().find(|setting| setting.name == *name).expect("flags name settings");
            config.set(setting, value, format!("flag {flag}"))?;
        }
        config.check()?;
        Ok(config)
    }

    fn read_file(&mut self, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading the configuration {}", path.display()))?;
        let table: toml::Table = text.parse().map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        let source = format!("file {}", path.display());
        for (section, value) in &table {
            match value {
                toml::Value::Table(inner) => {
                    for (key, value) in inner {
                        self.set_from_file(&format!("{section}.{key}"), value, &source, path)?;
                    }
                }
                value => self.set_from_file(section, value, &source, path)?,
            }
        }
        Ok(())
    }

    fn set_from_file(&mut self, name: &str, value: &toml::Value, source: &str, path: &Path) -> Result<()> {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) else {
            let near = did_you_mean(name, SETTINGS.iter().map(|setting| setting.name));
            bail!("{}: {name} is not a setting{near}", path.display());
        };
        let text = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            other => bail!("{}: {name} takes a string or a number, not {}", path.display(), other.type_str()),
        };
        self.set(setting, &text, source.to_owned())
    }

    fn set(&mut self, setting: &Setting, text: &str, source: String) -> Result<()> {
        (setting.read)(&mut self.values, text).map_err(|error| anyhow::anyhow!("{} ({source}): {error}", setting.name))?;
        self.sources.insert(setting.name, source);
        Ok(())
    }

    /// What no single value shows to be wrong.
    fn check(&self) -> Result<()> {
        let values = &self.values;
        let at_least = |name: &str, value: u64, least: u64| {
            if value < least { bail!("{name} is {}, the least is {}", Size(value), Size(least)) } else { Ok(()) }
        };
        at_least("http.body_bytes_max", values.http_body_bytes_max.0, 1 << 10)?;
        at_least("http.ndjson_body_bytes_max", values.http_ndjson_body_bytes_max.0, 1 << 10)?;
        at_least("log.memory_bytes_max", values.log_memory_bytes_max.0, 16 << 20)?;
        at_least("log.segment_bytes", values.log_segment_bytes.0, 1 << 20)?;
        at_least("log.queue_bytes_max", values.log_queue_bytes_max.0, 8 << 20)?;
        at_least("sql.memory_bytes_max", values.sql_memory_bytes_max.0, 1 << 20)?;
        for (name, value) in [
            ("http.connections_max", values.http_connections_max as u64),
            ("http.header_timeout_ms", values.http_header_timeout_ms),
            ("sql.timeout_ms_max", values.sql_timeout_ms_max),
            ("views.workers", values.views_workers as u64),
        ] {
            if value == 0 {
                bail!("{name} is 0, the least is 1");
            }
        }
        Ok(())
    }

    /// The configuration as TOML, each value with its meaning and its source.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        let mut section = "";
        for setting in SETTINGS {
            let (place, key) = setting.name.split_once('.').unwrap_or(("", setting.name));
            if place != section {
                section = place;
                out.push_str(&format!("\n[{section}]\n"));
            }
            let source = self.sources.get(setting.name).map_or("default", String::as_str);
            out.push_str(&format!("# {}; from: {source}\n{key} = {}\n", setting.doc, (setting.show)(&self.values)));
        }
        out
    }

    /// Whether nobody has set a value.
    pub fn is_default(&self, name: &str) -> bool {
        !self.sources.contains_key(name)
    }

    /// What the database is opened with.
    pub fn database_options(&self) -> DatabaseOptions {
        let values = &self.values;
        let mut options = DatabaseOptions::default();
        options.data.clone_from(&values.data);
        options.copy_dir = Some(PathBuf::from(&values.copy_dir)).filter(|dir| !dir.as_os_str().is_empty());
        options.log.disk = values.disk_io;
        options.log.verify_bytes_per_second = values.log_verify_bytes_per_second.0;
        options.log.memory_bytes_max = values.log_memory_bytes_max.0;
        options.log.queue_bytes_max = values.log_queue_bytes_max.len();
        options.log.reserve_bytes = values.log_reserve_bytes.0;
        options.log.partition.segment_bytes = values.log_segment_bytes.0;
        options.driver.workers = values.views_workers;
        options.driver.refresh = Duration::from_millis(values.views_refresh_ms);
        options.driver.checkpoint_interval = Duration::from_millis(values.views_checkpoint_interval_ms);
        options.limits.sql_bytes_max = values.sql_statement_bytes_max.len();
        options.sql_memory_bytes_max = values.sql_memory_bytes_max.len();
        options.view_memory_bytes = values.views_memory_bytes.len();
        options.rebuild_records_per_second_max = values.views_rebuild_records_per_second_max;
        options.vacuum_interval = Duration::from_millis(values.views_vacuum_interval_ms);
        options.vacuum_rows_per_second_max = values.views_vacuum_rows_per_second_max;
        options
    }
}

fn environment_name(setting: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", setting.replace('.', "_").to_uppercase())
}

/// `; did you mean "x"?`, or nothing when no name is near.
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(name, known) {
        Some(near) => format!("; did you mean {near}?"),
        None => String::new(),
    }
}

/// The known name that `name` is most likely meant to be.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().map(|known| (strsim::damerau_levenshtein(name, known), known));
    scored.filter(|(distance, known)| *distance <= (known.len() / 3).max(1)).min().map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, environment: &[(&str, &str)], flags: &[(&'static str, &str, String)]) -> Result<Config> {
        let path =
            std::env::temp_dir().join(format!("headwater-config-{}-{:?}", std::process::id(), std::thread::current().id()));
        std::fs::write(&path, file).unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = Config::load(Some(&path), environment, flags);
        std::fs::remove_file(&path).unwrap();
        config
    }

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in [("64MiB", 64 << 20), ("1GiB", 1 << 30), ("0", 0), ("1_000", 1000), ("2 kib", 2048), ("5B", 5)] {
            assert_eq!(text.parse::<Size>().unwrap(), Size(bytes), "{text}");
        }
        assert_eq!((Size(64 << 20).to_string(), Size(1500).to_string()), ("64MiB".to_owned(), "1500".to_owned()));
        for bad in ["", "MiB", "64MB", "-1", "1.5GiB", "99999999TiB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let file = "data = '/a'\n[http]\nlisten = '127.0.0.1:1'\n[log]\nmemory_bytes_max = '32MiB'\n[views]\nworkers = 3\n";
        let environment = [("HEADWATER_HTTP_LISTEN", "127.0.0.1:2"), ("HEADWATER_LOG_MEMORY_BYTES_MAX", "64MiB"), ("HOME", "/")];
        let config = load(file, &environment, &[("http.listen", "--http", "127.0.0.1:3".to_owned())]).unwrap();
        let values = &config.values;
        assert_eq!((values.data.to_str(), values.http_listen.as_str()), (Some("/a"), "127.0.0.1:3"));
        assert_eq!((values.log_memory_bytes_max, values.views_workers), (Size::mib(64), 3));
        let shown = config.to_toml();
        for part in
            ["listen = \"127.0.0.1:3\"", "flag --http", "environment HEADWATER_LOG_MEMORY_BYTES_MAX", "from: default", "file "]
        {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let shown = Config::default().to_toml();
        assert_eq!(load(&shown, &[], &[]).unwrap().values.http_listen, "127.0.0.1:8080");
    }

    #[test]
    fn what_is_misspelt_is_named_with_a_suggestion() {
        let error = load("[http]\nlisen = 'x'\n", &[], &[]).unwrap_err().to_string();
        assert!(error.contains("http.lisen") && error.contains("did you mean http.listen?"), "{error}");
        let error = load("", &[("HEADWATER_HTTP_LISTN", "x")], &[]).unwrap_err().to_string();
        assert!(error.contains("HEADWATER_HTTP_LISTN") && error.contains("did you mean HEADWATER_HTTP_LISTEN?"), "{error}");
        let error = load("disk_io = 'urign'", &[], &[]).unwrap_err().to_string();
        assert!(error.contains("use auto, pool, tokio-uring or uring"), "{error}");
        let error = load("[log]\nmemory_bytes_max = '1MiB'", &[], &[]).unwrap_err().to_string();
        assert!(error.contains("the least is 16MiB"), "{error}");
        assert!(load("[log]\nmemory_bytes_max = true", &[], &[]).unwrap_err().to_string().contains("boolean"));
        assert!(load("x = [", &[], &[]).is_err());
    }
}
