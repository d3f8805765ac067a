//! PostgreSQL's patterns for text and times, in the words of the libraries that carry them out.

/// `SIMILAR TO`'s pattern as a regular expression over the whole text.
#[must_use]
pub fn similar(pattern: &str) -> String {
    let mut out = "^(?s:".to_owned();
    let mut chars = pattern.chars();
    while let Some(ch) = chars.next() {
        match ch {
            '%' => out.push_str(".*"),
            '_' => out.push('.'),
            '.' | '^' | '$' => out.extend(['\\', ch]),
            '\\' => out.extend(chars.next().into_iter().flat_map(|next| ['\\', next])),
            other => out.push(other),
        }
    }
    out + ")$"
}

/// A `LIKE` pattern with another escape character, or none, as one with the backslash.
#[must_use]
pub fn with_backslash(pattern: &str, escape: Option<char>) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(ch) = chars.next() {
        if Some(ch) == escape {
            out.push('\\');
            out.extend(chars.next());
        } else if ch == '\\' {
            out.push_str("\\\\");
        } else {
            out.push(ch);
        }
    }
    out
}

/// PostgreSQL's patterns of `to_char` for times and what they are called here; longer ones first.
const TIMES: [(&str, &str); 30] = [
    ("YYYY", "%Y"),
    ("yyyy", "%Y"),
    ("HH24", "%H"),
    ("hh24", "%H"),
    ("HH12", "%I"),
    ("hh12", "%I"),
    ("DDD", "%j"),
    ("ddd", "%j"),
    ("Mon", "%b"),
    ("YY", "%y"),
    ("yy", "%y"),
    ("MM", "%m"),
    ("mm", "%m"),
    ("DD", "%d"),
    ("dd", "%d"),
    ("HH", "%I"),
    ("hh", "%I"),
    ("MI", "%M"),
    ("mi", "%M"),
    ("SS", "%S"),
    ("ss", "%S"),
    ("MS", "%3f"),
    ("US", "%6f"),
    ("Dy", "%a"),
    ("IYYY", "%G"),
    ("IW", "%V"),
    ("ID", "%u"),
    ("AM", "%p"),
    ("PM", "%p"),
    ("am", "%P"),
];

/// A pattern of `to_char` in `strftime`'s words; `None` where it has a word that is not known.
#[must_use]
pub fn time_format(pattern: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (text, behind) = quoted.split_once('"')?;
            out.push_str(text);
            rest = behind;
        } else if let Some((word, format)) =
            TIMES.iter().filter(|(word, _)| rest.starts_with(word)).max_by_key(|(word, _)| word.len())
        {
            out.push_str(format);
            rest = &rest[word.len()..];
        } else if first.is_alphabetic() && first != 'T' {
            return None;
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_translated() {
        assert_eq!(similar("a%(b|c)_."), "^(?s:a.*(b|c).\\.)$");
        assert_eq!(with_backslash("a!_b\\c", Some('!')), "a\\_b\\\\c");
        assert_eq!(time_format("YYYY-MM-DD HH24:MI:SS").as_deref(), Some("%Y-%m-%d %H:%M:%S"));
        assert_eq!(time_format("YYYY \"year\"").as_deref(), Some("%Y year"));
        assert_eq!(time_format("FMDay"), None);
    }
}
