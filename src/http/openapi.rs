//! The layer's policy as a part of an OpenAPI document.

use super::{layer::IdempotencyLayer, problem::Problem};
use crate::{limits::KEY_BYTES_MAX, spi::IdempotencyStore};
use serde_json::{Map, Value, json};

impl<S: IdempotencyStore> IdempotencyLayer<S> {
    /// Returns the `components` of an OpenAPI 3.1 document that describe the layer, as JSON: a
    /// parameter for each header that carries the key (`IdempotencyKey`, or `IdempotencyKey2` and
    /// so on), the headers of answers, the schema of a problem after RFC 9457, and a response for
    /// each status of the layer's own answers (`Idempotency409`). Merge it into the service's
    /// document, and refer to it from each covered operation.
    pub fn openapi_json(&self) -> String {
        let config = &self.core.config;
        let mut parameters = Map::new();
        for (number, name) in config.key.names().iter().enumerate() {
            let mut schema = json!({
                "type": "string", "minLength": config.key.least(), "maxLength": KEY_BYTES_MAX,
            });
            if config.key.is_uuids() {
                schema["format"] = "uuid".into();
            }
            let number = if number == 0 { String::new() } else { (number + 1).to_string() };
            let only = config.key.names().len() == 1;
            parameters.insert(format!("IdempotencyKey{number}"), json!({
                "name": name.as_str(),
                "in": "header",
                "required": !config.optional && only,
                "description": "Names the operation. A retry carries the same key, and gets the \
                                stored answer.",
                "schema": schema,
            }));
        }
        let text = |description: &str, kind: &str| {
            let schema = json!({ "type": kind });
            json!({ "description": description, "schema": schema })
        };
        let headers = json!({
            "Idempotent-Replayed": text("`true` on a stored answer.", "string"),
            "Idempotency-Retryable": text("Whether the same request may be sent again.", "string"),
            "Idempotency-Expires-In": text("How many seconds the key is remembered.", "integer"),
            "Retry-After": text("Seconds until a retry may help.", "integer"),
        });
        let mut responses = Map::new();
        let shown = |name: &str| json!({ "$ref": format!("#/components/headers/{name}") });
        for problem in Problem::ALL {
            let status = problem.status().as_u16();
            let name = format!("Idempotency{status}");
            let title = problem.title(&config.label);
            let said = responses.get(&name).and_then(|response| response["description"].as_str());
            let description = said.map_or(title.clone(), |said| format!("{said}; {title}"));
            responses.insert(
                name,
                json!({
                    "description": description,
                    "headers": {
                        "Idempotency-Retryable": shown("Idempotency-Retryable"),
                        "Retry-After": shown("Retry-After"),
                    },
                    "content": { "application/problem+json": {
                        "schema": { "$ref": "#/components/schemas/IdempotencyProblem" },
                    }},
                }),
            );
        }
        let types: Vec<String> = Problem::ALL.map(|problem| config.kind_of(problem)).to_vec();
        let document: Value = json!({ "components": {
            "parameters": parameters,
            "headers": headers,
            "responses": responses,
            "schemas": { "IdempotencyProblem": {
                "type": "object",
                "required": ["type", "title", "status", "detail", "instance", "retryable"],
                "properties": {
                    "type": { "type": "string", "format": "uri-reference", "enum": types },
                    "title": { "type": "string" },
                    "status": { "type": "integer" },
                    "detail": { "type": "string" },
                    "instance": { "type": "string", "format": "uri" },
                    "retryable": { "type": "boolean" },
                    "retry_after": { "type": "integer" },
                    "original_status": { "type": "integer" },
                },
            }},
        }});
        document.to_string()
    }
}
