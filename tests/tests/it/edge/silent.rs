//! A Redis that has fallen silent: callers hear of it within a second, and are served when it is
//! back.

use std::time::{Duration, Instant};

use chrono::Utc;
use reqwest::{StatusCode, header};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use umbel_api::{Api, ApiSettings, Grant, JwtSettings, OpenApiRouter, serve};
use umbel_broker::{BrokerSettings, Client};
use umbel_tests::{
    eventually::{LONGEST, eventually},
    house::House,
    probe,
    proxy::{Proxy, Way},
};

use super::gate::SECRET;

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_redis_is_told_within_a_second_and_a_slow_one_is_waited_for() {
    let house = House::start();
    let proxy = Proxy::start(house.redis.port(), 7).await;
    let url = house.redis.url_as("api");
    let url = url.replace(&format!(":{}", house.redis.port()), &format!(":{}", proxy.port()));
    let client = Client::open(&BrokerSettings::new(url), "api").unwrap();
    let jwt = JwtSettings::new(SECRET.into());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let settings = ApiSettings::new("Silent", addr, jwt.clone());
    let catalog = probe::registry().catalog().into();
    let api = Api::new(&settings, client, catalog, OpenApiRouter::new()).unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, api.router(), stop.clone()));
    let _stop = stop.drop_guard();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let browser = reqwest::Client::builder().no_proxy().timeout(LONGEST).build().unwrap();
    let token = Grant::new("ann").sign(&jwt, Utc::now()).unwrap();
    let ask = async || {
        let asked = Instant::now();
        let request = browser.get(format!("http://{addr}/v1/queues")).bearer_auth(&token);
        let response = request.send().await.unwrap();
        (response, asked.elapsed())
    };
    assert_eq!(ask().await.0.status(), StatusCode::OK);

    // Slower than the moment after which it is asked whether Redis is there, and there.
    proxy.delay(Way::ToClient, Duration::from_millis(400));
    let (response, took) = ask().await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(took >= Duration::from_millis(400), "{took:?}");
    proxy.delay(Way::ToClient, Duration::ZERO);

    proxy.half_open();
    for _ in 0..3 {
        let (response, took) = ask().await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "5");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    proxy.heal();
    // The connection that fell silent stays so: it is given up for a new one.
    eventually("requests are served again", async || {
        (ask().await.0.status() == StatusCode::OK).then_some(())
    })
    .await;
}
