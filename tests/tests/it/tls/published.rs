//! The keys of an identity provider over https: believed only from whom is trusted.

use reqwest::StatusCode;
use umbel_tests::{process::Launch, services::Identity};

use super::{Authority, HERE};
use crate::edge::{
    gate::{LIST, Running, running},
    issuer::{AUDIENCE, Answer, ISSUER, Issuer, Signer},
};

/// `umbel api` that believes the keys at an address.
fn launch(url: &str) -> Launch {
    Launch::new("umbel", &["api"])
        .env("REDIS_URL", "redis://127.0.0.1:1")
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
        .env("JWKS_URL", url)
        .env("JWT_ISSUER", ISSUER)
        .env("JWT_AUDIENCE", AUDIENCE)
}

async fn status(api: &Running, token: &str) -> StatusCode {
    let request = api.browser.get(format!("{}{LIST}", api.url)).bearer_auth(token);
    request.send().await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_by_https_from_whom_the_settings_trust() {
    let (ca, signer) = (Authority::new(), Signer::ec("ec-1"));
    let keys = Answer::Keys(vec![signer.jwk()]);
    let issuer = Issuer::start_with_tls(keys, &ca.identity(HERE)).await;
    // At `trace` the client of HTTP/2 would write down what it asks.
    let url = format!("{}?apikey=canary7f3a", issuer.url);
    let launch = launch(&url).env("SSL_CERT_FILE", ca.file().display()).env("LOG_LEVEL", "trace");
    let api = running(launch).await;
    assert_eq!(status(&api, &signer.token()).await, StatusCode::OK);
    assert_eq!(status(&api, &Signer::ec("ec-2").token()).await, StatusCode::UNAUTHORIZED);
    assert_eq!(issuer.asked(), 1);
    let log = api.process.log();
    assert!(log.contains("the published keys were read"), "{log}");
    assert!(!log.contains("canary7f3a"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_one_who_is_not_trusted_are_no_keys_and_the_log_says_why() {
    let (ca, stranger, signer) = (Authority::new(), Authority::new(), Signer::ec("ec-1"));
    let cases: [(Identity, &Authority, &str); 3] = [
        (ca.identity(HERE), &stranger, "UnknownIssuer"),
        (ca.identity("id.example"), &ca, "not valid for name"),
        (ca.expired(HERE), &ca, "expired"),
    ];
    for (identity, trusted, why) in cases {
        let issuer = Issuer::start_with_tls(Answer::Keys(vec![signer.jwk()]), &identity).await;
        let api = running(launch(&issuer.url).env("SSL_CERT_FILE", trusted.file().display())).await;
        assert_eq!(status(&api, &signer.token()).await, StatusCode::SERVICE_UNAVAILABLE, "{why}");
        let log = api.process.log();
        let line = log.lines().find(|line| line.contains("JWKS_URL cannot be read"));
        assert!(
            line.is_some_and(|line| line.contains(why) && line.contains("WARN")),
            "{why}: {log}"
        );
        assert_eq!(issuer.asked(), 0, "{why}: nothing was said to whom is not trusted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_over_an_open_wire_and_a_ca_that_is_not_there_are_wrong_settings() {
    for (launch, named) in [
        (launch("http://id.example/keys"), "JWKS_URL"),
        (launch("http://localhost/keys"), "JWKS_URL"),
        (launch("https://id.example/keys").env("SSL_CERT_FILE", "/nowhere.pem"), "SSL_CERT_FILE"),
    ] {
        let output = launch.output();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(named), "{said}");
    }
}
