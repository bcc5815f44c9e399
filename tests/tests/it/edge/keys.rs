//! Published keys: they change, their provider is away, or answers what it should not.

use std::time::{Duration, Instant};

use reqwest::{StatusCode, header};
use umbel_tests::eventually::eventually;

use super::{
    gate::Gate,
    issuer::{Answer, Issuer, Signer},
};

#[tokio::test(flavor = "multi_thread")]
async fn keys_change_without_a_restart() {
    let (old, new) = (Signer::ec("2026-01"), Signer::rsa("2026-02"));
    let issuer = Issuer::start(Answer::Keys(vec![old.jwk()])).await;
    let gate = Gate::open(issuer.impatient(), |_| {}).await;
    assert_eq!(gate.status(&old.token()).await, StatusCode::OK);
    assert_eq!(gate.status(&new.token()).await, StatusCode::UNAUTHORIZED);

    issuer.answers(Answer::Keys(vec![old.jwk(), new.jwk()]));
    assert_eq!(gate.status(&new.token()).await, StatusCode::OK, "the first token brings the news");
    assert_eq!(gate.status(&old.token()).await, StatusCode::OK);

    issuer.answers(Answer::Keys(vec![new.jwk()]));
    assert_eq!(gate.status(&Signer::ec("2026-03").token()).await, StatusCode::UNAUTHORIZED);
    assert_eq!(gate.status(&old.token()).await, StatusCode::UNAUTHORIZED, "it is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_unknown_keys_are_one_fetch() {
    let known = Signer::ec("known");
    let issuer = Issuer::start(Answer::Keys(vec![known.jwk()])).await;
    let gate = Gate::open(issuer.settings(), |_| {}).await;
    let tokens: Vec<String> = (0..1_000)
        .map(|n| {
            let mut header = known.header();
            header["kid"] = format!("unknown-{n}").into();
            known.sign(&header, &super::issuer::claims())
        })
        .collect();
    for fifty in tokens.chunks(50) {
        let asked = fifty.iter().map(|token| gate.status(token));
        for status in futures::future::join_all(asked).await {
            assert_eq!(status, StatusCode::UNAUTHORIZED);
        }
    }
    assert_eq!(gate.status(&known.token()).await, StatusCode::OK);
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_provider_is_gone_the_last_good_keys_serve() {
    let (known, unknown) = (Signer::ec("known"), Signer::ec("unknown"));
    let issuer = Issuer::start(Answer::Keys(vec![known.jwk()])).await;
    let gate = Gate::open(issuer.impatient(), |_| {}).await;
    assert_eq!(gate.status(&known.token()).await, StatusCode::OK);
    drop(issuer);
    for _ in 0..3 {
        assert_eq!(gate.status(&unknown.token()).await, StatusCode::UNAUTHORIZED);
        assert_eq!(gate.status(&known.token()).await, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_there_are_no_keys_nobody_gets_in_and_no_token_is_blamed() {
    let known = Signer::ec("known");
    let issuer = Issuer::start(Answer::Status(500)).await;
    let gate = Gate::open(issuer.impatient(), |_| {}).await;
    let response = gate.ask(&known.token()).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()[header::RETRY_AFTER], "5");
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    issuer.answers(Answer::Keys(vec![known.jwk()]));
    assert_eq!(gate.status(&known.token()).await, StatusCode::OK);
}

/// Longer than a fetch may take, with the delays of a busy machine.
const BOUNDED: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_answer_costs_little_and_changes_nothing() {
    let (known, unknown) = (Signer::ec("known"), Signer::ec("unknown"));
    let elsewhere = Issuer::start(Answer::Keys(vec![known.jwk(), unknown.jwk()])).await;
    let both = vec![known.jwk(), unknown.jwk()];
    for bad in [
        Answer::Endless,
        Answer::Huge(both.clone()),
        Answer::Silence,
        Answer::Status(404),
        Answer::Redirect(elsewhere.url.clone()),
        Answer::Keys(Vec::new()),
        Answer::Keys(vec![known.jwk(); 101]),
    ] {
        let issuer = Issuer::start(bad.clone()).await;
        let gate = Gate::open(issuer.impatient(), |_| {}).await;
        let asked = Instant::now();
        assert_eq!(gate.status(&known.token()).await, StatusCode::SERVICE_UNAVAILABLE, "{bad:?}");
        assert!(asked.elapsed() < BOUNDED, "{bad:?}: {:?}", asked.elapsed());

        // Once there were good ones, they stay.
        issuer.answers(Answer::Keys(vec![known.jwk()]));
        assert_eq!(gate.status(&known.token()).await, StatusCode::OK, "{bad:?}");
        issuer.answers(bad.clone());
        let asked = Instant::now();
        let (token, other) = (known.token(), unknown.token());
        // Those whose key is known do not wait with the one whose is not.
        let (unknown, known_is) = tokio::join!(gate.status(&other), gate.status(&token));
        assert_eq!((unknown, known_is), (StatusCode::UNAUTHORIZED, StatusCode::OK), "{bad:?}");
        assert!(asked.elapsed() < BOUNDED, "{bad:?}: {:?}", asked.elapsed());
        assert_eq!(gate.status(&known.token()).await, StatusCode::OK, "{bad:?}");
    }
    assert_eq!(elsewhere.asked(), 0, "redirects are not followed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_a_known_key_is_answered_while_the_keys_are_fetched() {
    let (known, unknown) = (Signer::ec("known"), Signer::ec("unknown"));
    let issuer = Issuer::start(Answer::Keys(vec![known.jwk()])).await;
    let gate = Gate::open(issuer.impatient(), |_| {}).await;
    assert_eq!(gate.status(&known.token()).await, StatusCode::OK);
    issuer.answers(Answer::Silence);
    let token = unknown.token();
    let waits = gate.status(&token);
    tokio::pin!(waits);
    let served = async {
        eventually("the fetch is under way", async || (issuer.asked() == 2).then_some(())).await;
        gate.status(&known.token()).await
    };
    tokio::select! {
        status = &mut waits => panic!("answered {status} before the fetch was over"),
        status = served => assert_eq!(status, StatusCode::OK),
    }
    assert_eq!(waits.await, StatusCode::UNAUTHORIZED);
}
