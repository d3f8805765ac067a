//! `GET /openapi.json`: the interface described for programs, by hand; a test holds it against the routes.

use axum::response::IntoResponse;

use super::json_bytes;

const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /openapi.json`.
pub async fn show() -> impl IntoResponse {
    json_bytes(DOCUMENT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::http::routes;

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let document = document();
        let described: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                methods.as_object().unwrap().keys().map(move |method| (path.clone(), method.to_uppercase()))
            })
            .collect();
        let routed = routes().into_iter().map(|route| (route.path.to_owned(), route.method.to_string())).collect::<BTreeSet<_>>();
        assert_eq!(described, routed);
    }

    #[test]
    fn path_parameters_are_described_and_references_lead_somewhere() {
        let document = document();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for operation in methods.as_object().unwrap().values() {
                let named: BTreeSet<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                let described: BTreeSet<&str> =
                    parameters.filter(|parameter| parameter["in"] == "path").filter_map(|p| p["name"].as_str()).collect();
                assert_eq!(named, described, "{path}");
                assert!(operation["responses"].as_object().unwrap().len() > 1, "{path}");
            }
        }
        let mut references = Vec::new();
        collect(&document, &mut references);
        for reference in references {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
    }

    fn collect<'a>(value: &'a Value, references: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                references.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|member| collect(member, references));
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, references)),
            _ => {}
        }
    }
}
