//! More like this: the words that tell some documents or texts apart, looked up together.
//!
//! Words are weighed by how often they are in the texts and how rare in the index, as Lucene does; the best become a query.

use std::collections::BTreeMap;

use serde_json::Value;
use tantivy::Term;
use tantivy::query::{BooleanQuery, EmptyQuery, Occur, Query, TermQuery};
use tantivy::schema::IndexRecordOption;

use super::Compiler;
use super::lookup::{Target, analyse};
use crate::error::Error;
use crate::highlight::Mark;
use crate::mapping::{scalar_text, split_path, visit_values};
use crate::request::{Like, MoreLikeThis};
use crate::table::corrupt;

impl Compiler<'_> {
    pub(super) fn more_like_this(&mut self, request: &MoreLikeThis) -> Result<Box<dyn Query>, Error> {
        let mut documents = Vec::new();
        let (mut texts, mut ids) = (Vec::new(), Vec::new());
        for like in &request.like {
            match like {
                Like::Text(text) => texts.push(text.as_str()),
                Like::Id(id) => {
                    let json = self.snapshot.get(id)?.ok_or_else(|| {
                        let message = format!("there is no document `{id}`; name one that is there, or give a text");
                        Error::Request { at: "more_like_this.like".to_owned(), message }
                    })?;
                    let value: Value = serde_json::from_slice(&json).map_err(|_| corrupt("a document that is not JSON"))?;
                    documents.push(value);
                    ids.push(id.clone());
                }
            }
        }
        let all: Vec<String> = self.shared.mapping.search.iter().map(|field| field.path.clone()).collect();
        let documents_count = self.snapshot.count();
        let mut weighed: Vec<(f64, Term)> = Vec::new();
        for path in request.fields.as_ref().unwrap_or(&all) {
            let Target::Text { place, analyzer } = self.target(path, false)? else {
                let search = all.iter().map(String::as_str);
                return Err(Error::unknown_field(path, search));
            };
            let mut counts: BTreeMap<String, u32> = BTreeMap::new();
            let mut add =
                |text: &str| analyse(analyzer, text).into_iter().for_each(|(_, token)| *counts.entry(token).or_default() += 1);
            texts.iter().for_each(|text| add(text));
            for document in &documents {
                visit_values(document, &split_path(path), &mut |scalar| scalar_text(scalar).iter().for_each(|text| add(text)));
            }
            for (token, count) in counts {
                let term = place.term(&token);
                let frequency = self.snapshot.searcher.doc_freq(&term)?;
                if count >= request.min_term_freq && frequency >= request.min_doc_freq.max(1) {
                    weighed.push((f64::from(count) * rarity(frequency, documents_count), term));
                    self.mark(path, Mark::Term(token));
                }
            }
        }
        weighed.sort_by(|(a, one), (b, other)| b.total_cmp(a).then_with(|| one.cmp(other)));
        weighed.truncate(request.max_query_terms);
        self.count("more_like_this", weighed.len())?;
        if weighed.is_empty() {
            return Ok(Box::new(EmptyQuery));
        }
        let term = |(_, term)| Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs)) as Box<dyn Query>;
        let words = Box::new(BooleanQuery::union(weighed.into_iter().map(term).collect()));
        if ids.is_empty() {
            return Ok(words);
        }
        Ok(Box::new(BooleanQuery::new(vec![(Occur::Must, words), (Occur::MustNot, self.ids(&ids))])))
    }
}

/// Lucene's inverse document frequency.
fn rarity(frequency: u64, documents: u64) -> f64 {
    let float = |number: u64| Value::from(number).as_f64().unwrap_or(f64::MAX);
    ((float(documents) + 1.0) / (float(frequency) + 1.0)).ln() + 1.0
}
