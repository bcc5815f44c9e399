//! Who may ask for what, and how often.

use super::*;
use crate::{
    Grant, Scope, Scopes,
    access::{Needs, TABLE, check as check_access},
};

/// Every kind of token that the matrix of access tells apart, with what it holds.
fn bearers() -> Vec<(&'static str, Option<Grant>)> {
    let with = |scopes: &str| Some(Grant::new("ann").scopes(scopes.parse::<Scopes>().unwrap()));
    vec![
        ("no token", None),
        ("nothing", with("")),
        ("tasks:enqueue", with("tasks:enqueue")),
        ("tasks:read", with("tasks:read")),
        ("tasks:cancel", with("tasks:cancel")),
        ("tasks:enqueue tasks:read tasks:cancel", with("tasks:enqueue tasks:read tasks:cancel")),
        ("admin", with("admin")),
    ]
}

async fn ask_with(grant: Option<&Grant>, method: &str, path: &str) -> Response {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(grant) = grant {
        let token = grant.sign(&settings().jwt, Utc::now()).unwrap();
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(r#"{"args": {"site": "a"}}"#))
        .unwrap();
    api(application()).unwrap().router().oneshot(request).await.unwrap()
}

#[tokio::test]
async fn each_route_takes_the_tokens_that_the_table_says_and_no_others() {
    let mut asked = 0;
    for row in TABLE {
        let path = row.path.replace("{task}", "sites.visit");
        for (held, grant) in bearers() {
            let response = ask_with(grant.as_ref(), row.method, &path).await;
            let status = response.status();
            let case = format!("{} {} with {held}: {status}", row.method, row.path);
            let scope = match row.needs {
                Needs::Nothing => {
                    assert_ne!(status, StatusCode::UNAUTHORIZED, "{case}");
                    continue;
                }
                Needs::Scope(scope) | Needs::ScopeForTask(scope) => scope,
            };
            let holds = held.split(' ').any(|word| word == scope.as_str() || word == "admin");
            match grant {
                None => assert_eq!(status, StatusCode::UNAUTHORIZED, "{case}"),
                Some(_) if holds => {
                    // Redis is away: what was let through is told so, or needs none, or asks for
                    // another body than this one.
                    let through = [200, 400, 404, 422, 503].contains(&status.as_u16());
                    assert!(through, "{case}");
                }
                Some(_) => {
                    assert_eq!(status, StatusCode::FORBIDDEN, "{case}");
                    let challenge = response.headers()[header::WWW_AUTHENTICATE].to_str().unwrap();
                    assert!(challenge.contains("insufficient_scope"), "{case}");
                    assert!(challenge.contains(scope.as_str()), "{case}");
                }
            }
            asked += 1;
        }
    }
    assert!(asked >= 35, "{asked}");
}

#[tokio::test]
async fn a_route_of_an_application_asks_for_the_scopes_that_its_description_names() {
    let of_sites = ["sites:write", "sites:read sites:write", "admin"];
    let with = |scopes: &str| Some(Grant::new("ann").scopes(scopes.parse::<Scopes>().unwrap()));
    let more = [of_sites[0], of_sites[1], "sites:read"].map(|scopes| (scopes, with(scopes)));
    for (held, grant) in bearers().into_iter().chain(more) {
        // This one names none: a token is enough.
        let read = ask_with(grant.as_ref(), "GET", "/v1/sites/7").await.status();
        let response = ask_with(grant.as_ref(), "DELETE", "/v1/sites/7").await;
        let removed = response.status();
        match grant {
            None => assert_eq!((read, removed.as_u16()), (StatusCode::UNAUTHORIZED, 401)),
            Some(_) if of_sites.contains(&held) => {
                assert_eq!((read, removed.as_u16()), (StatusCode::OK, 200), "{held}");
            }
            Some(_) => {
                assert_eq!((read, removed.as_u16()), (StatusCode::OK, 403), "{held}");
                let challenge = response.headers()[header::WWW_AUTHENTICATE].to_str().unwrap();
                assert!(challenge.contains("scope=\"sites:write\""), "{held}: {challenge}");
                let kind = response.headers()[header::CONTENT_TYPE].to_str().unwrap();
                assert_eq!(kind, "application/problem+json", "{held}");
            }
        }
    }
    let description = json_of(ask_without_token("/openapi.json").await).await;
    let asked = &description["paths"]["/v1/sites/{id}"]["delete"]["security"];
    assert_eq!(asked, &serde_json::json!([{"bearer": ["sites:write"]}]));
}

#[utoipa::path(get, path = "/odd", security(("bearer" = ["sites"])), responses((status = 200)))]
async fn odd() {}

#[tokio::test]
async fn a_scope_that_no_token_can_hold_or_no_route_asks_for_does_not_start() {
    let routes = OpenApiRouter::new().routes(routes!(odd));
    let refusal = api(routes).unwrap_err().to_string();
    assert!(refusal.contains("`GET /v1/odd` asks for `sites`"), "{refusal}");
    let start = |default: &str, roles: &str| {
        let mut settings = settings();
        settings.jwt.default_scopes = default.parse().unwrap();
        settings.jwt.role_scopes = roles.parse().unwrap();
        let away = BrokerSettings::new("unix:/nonexistent/redis.sock");
        Api::new(&settings, Client::open(&away, "api").unwrap(), catalog(), application())
    };
    assert!(start("sites:write", "staff=sites:write tasks:read").is_ok());
    for (default, roles) in [("sites:wriet", ""), ("", "staff=sites:wriet")] {
        let refusal = start(default, roles).unwrap_err().to_string();
        assert!(refusal.contains("`sites:wriet`"), "{refusal}");
    }
}

#[tokio::test]
async fn head_needs_what_get_needs() {
    let nothing = Grant::new("ann").scopes(Scopes::NONE);
    assert_eq!(ask_with(Some(&nothing), "HEAD", "/v1/tasks").await.status(), StatusCode::FORBIDDEN);
    let reader = Grant::new("ann").scopes(Scope::Read);
    assert_eq!(ask_with(Some(&reader), "HEAD", "/v1/tasks").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_task_outside_of_the_tokens_list_is_as_one_that_does_not_exist() {
    let narrowed = Grant::new("ann").tasks(["sites.count"]);
    let hidden = ask_with(Some(&narrowed), "POST", "/v1/tasks/sites.visit").await;
    let unknown = ask_with(Some(&Grant::new("ann")), "POST", "/v1/tasks/sites.none").await;
    let (hidden, unknown) = (json_of(hidden).await, json_of(unknown).await);
    assert_eq!((&hidden["status"], &hidden["detail"]), (&404.into(), &unknown["detail"]));
    // Written otherwise it is the same name.
    let encoded = Grant::new("ann").tasks(["sites.visit"]);
    for path in ["/v1/tasks/sites.visit", "/v1/tasks/sites%2Evisit"] {
        let status = ask_with(Some(&encoded), "POST", path).await.status();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}: let through to Redis");
        assert_eq!(ask_with(Some(&narrowed), "POST", path).await.status(), StatusCode::NOT_FOUND);
    }
}

#[test]
fn a_route_that_is_not_in_the_table_does_not_start() {
    let (open, own, metrics) = (open_routes(), own_routes(), metrics_routes());
    let check = |own: &OpenApiRouter<Shared>| {
        check_access(open.get_openapi(), own.get_openapi(), metrics.get_openapi())
    };
    assert!(check(&own).is_ok());
    let more = own_routes().routes(routes!(empty));
    let refusal = check(&more).unwrap_err().to_string();
    assert!(refusal.contains("`DELETE /v1/queues`"), "{refusal}");
    let fewer = OpenApiRouter::default().routes(routes!(tasks::list));
    assert!(check(&fewer).unwrap_err().to_string().contains("/v1/"));
    // Nor one that would be served without a door.
    let open = open_routes().get_openapi().clone().merge_from(more.get_openapi().clone());
    assert!(check_access(&open, own.get_openapi(), metrics.get_openapi()).is_err());
}

#[tokio::test]
async fn metrics_are_the_admins_or_have_a_port_of_their_own() {
    let admin = Grant::new("ann").scopes(Scope::Admin);
    let response = ask_with(Some(&admin), "GET", "/metrics").await;
    assert!(response.headers()[header::CONTENT_TYPE].to_str().unwrap().starts_with("text/plain"));

    let mut elsewhere = settings();
    elsewhere.metrics_elsewhere = true;
    let away = BrokerSettings::new("unix:/nonexistent/redis.sock");
    let client = Client::open(&away, "api").unwrap();
    let api = Api::new(&elsewhere, client, catalog(), application()).unwrap();
    let (metrics, router) = (api.metrics_router(), api.router());
    let get = |path: &str| Request::get(path).body(Body::empty()).unwrap();
    for path in ["/v1/sites/7", "/nowhere/of/anybody"] {
        router.clone().oneshot(get(path)).await.unwrap();
    }
    assert_eq!(router.oneshot(get("/metrics")).await.unwrap().status(), StatusCode::NOT_FOUND);
    let response = metrics.oneshot(get("/metrics")).await.unwrap();
    let text = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    let line = r#"umbel_http_requests_total{route="/v1/sites/{id}",method="GET",status="4xx"} 1"#;
    assert!(text.contains(line) && !text.contains("nowhere"), "{text}");
}

#[tokio::test]
async fn a_subject_may_ask_so_often_and_another_as_often() {
    let mut settings = settings();
    settings.limits.per_subject = std::num::NonZeroU32::new(1);
    let away = BrokerSettings::new("unix:/nonexistent/redis.sock");
    let client = Client::open(&away, "api").unwrap();
    let router = Api::new(&settings, client, catalog(), application()).unwrap().router();
    let ask = async |subject: &str| {
        let token = Grant::new(subject).sign(&settings.jwt, Utc::now()).unwrap();
        let request =
            Request::get("/v1/tasks").header(header::AUTHORIZATION, format!("Bearer {token}"));
        router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    };
    for _ in 0..2 {
        assert_eq!(ask("ann").await.status(), StatusCode::OK);
    }
    let refused = ask("ann").await;
    assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
    assert_eq!(json_of(refused).await["status"], 429);
    assert_eq!(ask("bob").await.status(), StatusCode::OK);
}
