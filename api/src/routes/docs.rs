//! `/openapi.json` and `/docs`: what the API can do, for machines and for people.

use serde_json::{Value, json};
use umbel_proto::Catalog;
use utoipa::openapi::{
    Components, Info, OpenApi,
    security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
};
use utoipa_swagger_ui::SwaggerUi;

use crate::ApiError;

/// The name of the bearer scheme in the description.
pub(crate) const BEARER: &str = "bearer";

/// An empty description: its title, and that tokens are needed.
pub(crate) fn heading(title: &str) -> OpenApi {
    let mut components = Components::new();
    let scheme = Http::builder().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    components.add_security_scheme(BEARER, SecurityScheme::Http(scheme));
    let mut api = OpenApi::new(Info::new(title, "v1"), utoipa::openapi::Paths::new());
    api.components = Some(components);
    api.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>(BEARER, [])]);
    api
}

/// The pages, all of them in the binary: nothing is fetched from elsewhere.
pub(crate) fn pages(description: Value) -> SwaggerUi {
    SwaggerUi::new("/docs").external_url_unchecked("/openapi.json", description)
}

/// The description as JSON, with the arguments of every task that may be enqueued: schemas
/// `task.<name>`, any of which may be the `args` of a new task.
pub(crate) fn describe(api: &OpenApi, catalog: &Catalog) -> Value {
    let mut description = json!(api);
    let mut refs = Vec::new();
    for entry in catalog.iter().filter(|entry| entry.options.over_http) {
        let name = format!("task.{}", entry.name);
        let at = format!("#/components/schemas/{name}");
        let mut schema = entry.args_schema.clone().to_value();
        if let Some(schema) = schema.as_object_mut() {
            schema.remove("$schema");
        }
        rebase(&mut schema, &at);
        description["components"]["schemas"][&name] = schema;
        refs.push(json!({ "$ref": at }));
    }
    if !refs.is_empty() {
        let args = &mut description["components"]["schemas"]["NewTaskBody"]["properties"]["args"];
        let about = args["description"].take();
        // Not `oneOf`: two tasks may take the same arguments.
        *args = json!({ "description": about, "anyOf": refs });
    }
    description
}

/// A schema of its own refers to itself as `#`; inside the description it lies at `at`.
fn rebase(schema: &mut Value, at: &str) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(to) if key == "$ref" && to.starts_with('#') => {
                        *to = format!("{at}{}", &to[1..]);
                    }
                    value => rebase(value, at),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| rebase(value, at)),
        _ => {}
    }
}

/// Refuses routes and schemas of an application that would collide with our own: axum would panic,
/// and the description would quietly lose one of the two.
/// `own`: what is served beside the application's routes; `others`: what is served elsewhere and stands in
/// the same description.
pub(crate) fn check_taken(
    own: &OpenApi,
    others: &[&OpenApi],
    application: &OpenApi,
) -> Result<(), ApiError> {
    let first = |path: &str| path.trim_start_matches('/').split('/').next().map(str::to_owned);
    for path in application.paths.paths.keys() {
        let taken = own.paths.paths.keys().find(|taken| first(taken) == first(path));
        if let Some(taken) = taken {
            return Err(ApiError::RouteTaken {
                path: format!("/v1{path}"),
                taken: format!("/v1{taken}"),
            });
        }
    }
    let Some(theirs) = &application.components else { return Ok(()) };
    let all = others.iter().chain([&own]).filter_map(|api| api.components.as_ref());
    // The same schema is no collision: applications may show our `Problem`.
    let differs = |name: &&String| {
        let mut ours = all.clone().filter_map(|ours| ours.schemas.get(*name));
        ours.any(|schema| Some(schema) != theirs.schemas.get(*name))
    };
    match theirs.schemas.keys().find(differs) {
        Some(name) => Err(ApiError::SchemaTaken { name: name.clone() }),
        None => Ok(()),
    }
}
