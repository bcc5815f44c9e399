//! What no API may believe that believes published keys.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use chrono::Utc;
use reqwest::{StatusCode, header};
use ring::hmac;
use serde_json::{Value, json};

use super::{
    gate::{Gate, SECRET},
    issuer::{Answer, Issuer, Signer, claims, unsigned},
};

fn but(mut claims: Value, field: &str, value: Value) -> Value {
    claims[field] = value;
    claims
}

fn without(mut value: Value, field: &str) -> Value {
    value.as_object_mut().unwrap().remove(field);
    value
}

fn by_secret(secret: &[u8], header: &Value) -> String {
    let text = unsigned(header, &claims());
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text.as_bytes());
    format!("{text}.{}", BASE64.encode(tag))
}

/// The forms of a public key that have been taken for a secret elsewhere.
fn confused(signer: &Signer) -> Vec<(String, String)> {
    let jwk = signer.jwk();
    let parts = ["n", "x", "y", "kid"].into_iter().filter_map(|part| jwk[part].as_str());
    let mut secrets: Vec<Vec<u8>> = vec![jwk.to_string().into_bytes(), Vec::new()];
    for part in parts {
        secrets.push(part.as_bytes().to_vec());
        secrets.extend(BASE64.decode(part));
    }
    let header = json!({"alg": "HS256", "kid": signer.kid});
    let forge = |(n, secret): (usize, Vec<u8>)| {
        (format!("{} as a secret, form {n}", signer.algorithm()), by_secret(&secret, &header))
    };
    secrets.into_iter().enumerate().map(forge).collect()
}

fn forged(signer: &Signer, other: &Signer, evil: &Signer, lure: &str) -> Vec<(String, String)> {
    let now = Utc::now().timestamp();
    let good = signer.token();
    let parts: Vec<&str> = good.split('.').collect();
    let signature = BASE64.decode(parts[2]).unwrap();
    let resigned = |bytes: &[u8]| format!("{}.{}.{}", parts[0], parts[1], BASE64.encode(bytes));
    let said = |value: Value| signer.sign(&signer.header(), &value);
    let headed =
        |field: &str, value: Value| signer.sign(&but(signer.header(), field, value), &claims());
    let lured = |field: &str, value: Value| evil.sign(&but(evil.header(), field, value), &claims());
    let mut flipped = signature.clone();
    flipped[7] ^= 1;
    let named = |kid: &str| evil.sign(&but(evil.header(), "kid", json!(kid)), &claims());
    let mut all = vec![
        ("empty", String::new()),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("zeros for a signature", resigned(&vec![0; signature.len()])),
        ("a signature with a bit turned", resigned(&flipped)),
        ("a signature cut", resigned(&signature[..signature.len() - 1])),
        ("a signature doubled", resigned(&[signature.clone(), signature.clone()].concat())),
        (
            "other claims",
            format!(
                "{}.{}.{}",
                parts[0],
                BASE64.encode(but(claims(), "sub", json!("eve")).to_string()),
                parts[2]
            ),
        ),
        ("none", format!("{}.", unsigned(&json!({"alg": "none", "kid": signer.kid}), &claims()))),
        ("None with a signature", headed("alg", json!("None"))),
        ("the algorithm of the other key", headed("alg", json!(other.algorithm()))),
        ("RS512", headed("alg", json!("RS512"))),
        ("PS256", headed("alg", json!("PS256"))),
        ("ES384", headed("alg", json!("ES384"))),
        ("EdDSA", headed("alg", json!("EdDSA"))),
        ("HS256", headed("alg", json!("HS256"))),
        ("the kid of the other key", headed("kid", json!(other.kid))),
        ("no kid", signer.sign(&without(signer.header(), "kid"), &claims())),
        ("an empty kid", headed("kid", json!(""))),
        ("a number for a kid", headed("kid", json!(7))),
        ("a list for a kid", headed("kid", json!([signer.kid]))),
        ("a path for a kid", named("../../../../dev/null")),
        ("SQL for a kid", named("x' UNION SELECT 'key")),
        ("an address for a kid", named(lure)),
        ("an endless kid", named(&"k".repeat(5_000))),
        ("the kid of another's key", named(signer.kid)),
        ("a key of its own", lured("jwk", evil.jwk())),
        ("an address of keys of its own", lured("jku", json!(lure))),
        ("an address of a certificate of its own", lured("x5u", json!(lure))),
        ("a certificate of its own", lured("x5c", json!(["MIIB"]))),
        (
            "its own key under a known kid",
            evil.sign(
                &but(but(evil.header(), "jwk", evil.jwk()), "kid", json!(signer.kid)),
                &claims(),
            ),
        ),
        ("a critical extension", headed("crit", json!(["exp"]))),
        ("expired", said(but(claims(), "exp", json!(now - 60)))),
        ("exp a text", said(but(claims(), "exp", json!((now + 60).to_string())))),
        ("no exp", said(without(claims(), "exp"))),
        ("nbf to come", said(but(claims(), "nbf", json!(now + 600)))),
        ("nbf a text", said(but(claims(), "nbf", json!("0")))),
        ("another iss", said(but(claims(), "iss", json!("https://id.example.evil")))),
        ("iss a list", said(but(claims(), "iss", json!(["a"])))),
        ("no iss", said(without(claims(), "iss"))),
        ("another aud", said(but(claims(), "aud", json!("others")))),
        ("no aud", said(without(claims(), "aud"))),
        ("no sub", said(without(claims(), "sub"))),
        ("sub a number", said(but(claims(), "sub", json!(7)))),
        ("sub two lines", said(but(claims(), "sub", json!("ann\nINFO forged")))),
        ("scope a list", said(but(claims(), "scope", json!(["admin"])))),
        ("claims a list", said(json!([claims()]))),
    ]
    .into_iter()
    .map(|(why, token)| (format!("{why} ({})", signer.algorithm()), token))
    .collect::<Vec<_>>();
    all.extend(confused(signer));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn no_forged_token_is_believed_and_all_refusals_are_one_answer() {
    let (rsa, ec, evil) = (Signer::rsa("rsa-1"), Signer::ec("ec-1"), Signer::ec("evil-1"));
    let issuer = Issuer::start(Answer::Keys(vec![rsa.jwk(), ec.jwk()])).await;
    let lure = Issuer::start(Answer::Keys(vec![evil.jwk()])).await;
    // With the secret as well and without it: the two must not lend each other algorithms.
    for secret in [None, Some(SECRET)] {
        let mut settings = issuer.impatient();
        settings.secret = secret.map(Into::into);
        let gate = Gate::open(settings, |_| {}).await;
        for good in [rsa.token(), ec.token()] {
            assert_eq!(gate.status(&good).await, StatusCode::OK);
        }
        let cases = [forged(&rsa, &ec, &evil, &lure.url), forged(&ec, &rsa, &evil, &lure.url)];
        let cases = cases.concat();
        assert!(cases.len() >= 100, "{}", cases.len());
        let expected = body_of(gate.ask("garbage").await).await;
        for (why, token) in cases {
            let response = gate.ask(&token).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{why}");
            assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer", "{why}");
            assert_eq!(body_of(response).await, expected, "{why}");
        }
    }
    assert_eq!(lure.asked(), 0, "no token says where keys come from");
}

/// Without the one thing that differs.
async fn body_of(response: reqwest::Response) -> Value {
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["request_id"], json!(id));
    without(problem, "request_id")
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_bring_keys_mean_nothing_in_a_good_token_either() {
    let (ec, evil) = (Signer::ec("ec-1"), Signer::ec("evil-1"));
    let issuer = Issuer::start(Answer::Keys(vec![ec.jwk()])).await;
    let lure = Issuer::start(Answer::Keys(vec![evil.jwk()])).await;
    let gate = Gate::open(issuer.settings(), |_| {}).await;
    for (field, value) in [
        ("jku", json!(lure.url)),
        ("x5u", json!(lure.url)),
        ("jwk", evil.jwk()),
        ("x5c", json!(["MIIB"])),
    ] {
        let token = ec.sign(&but(ec.header(), field, value), &claims());
        assert_eq!(gate.status(&token).await, StatusCode::OK, "{field}");
    }
    assert_eq!((issuer.asked(), lure.asked()), (1, 0));
}
