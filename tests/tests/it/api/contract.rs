//! The API is tried against its own description by somebody who knows nothing else of it.

use std::{
    env, fs,
    path::Path,
    process::{Command, Output},
};

use umbel_tests::{
    eventually::eventually,
    house::House,
    process::{Launch, Process, free_port},
};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// How many requests are thought up for each operation, beside those at the edges of its schemas.
const EXAMPLES: &str = "25";

/// The API of the probe, as a process.
async fn serve(house: &House) -> (Process, String) {
    let port = free_port();
    let api = Launch::new("umbel-probe", &["api"])
        .env("REDIS_URL", house.redis.url_as("api"))
        .env("JWT_SECRET", SECRET)
        .env("PORT", port)
        // All of it comes from one address, and as one subject.
        .env("RATE_LIMIT", 0)
        .env("PEER_RATE_LIMIT", 0)
        .env("LOG_LEVEL", "warn")
        .start();
    let url = format!("http://127.0.0.1:{port}");
    eventually("it listens", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
    })
    .await;
    (api, url)
}

fn token() -> String {
    let token = Launch::new("umbel-probe", &["token", "--scopes", "admin"])
        .env("JWT_SECRET", SECRET)
        .output();
    assert!(token.status.success());
    String::from_utf8(token.stdout).unwrap().trim().to_owned()
}

/// Tries all operations; with a token or without.
fn try_all(url: &str, token: Option<&str>) -> Output {
    let packages = Command::new(Path::new(ROOT).join("scripts/schemathesis")).output().unwrap();
    assert!(packages.status.success(), "{}", String::from_utf8_lossy(&packages.stderr));
    // It keeps what it has found where it stands.
    let folder = env::temp_dir().join(format!("umbel-tries-{}", uuid::Uuid::new_v4().simple()));
    fs::create_dir(&folder).unwrap();
    let mut tries = Command::new("python3");
    tries
        .env("PYTHONPATH", String::from_utf8(packages.stdout).unwrap().trim())
        .current_dir(&folder)
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(Path::new(ROOT).join("tests/schemathesis.toml"))
        .args(["run", "--no-color", "--max-examples", EXAMPLES])
        .arg(format!("{url}/openapi.json"));
    if let Some(token) = token {
        tries.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
    let output = tries.output().unwrap();
    fs::remove_dir_all(&folder).unwrap();
    output
}

/// All operations were tried, and let in whoever had a token and nobody else.
fn assert_held(tried: &Output, is_let_in: bool) {
    let said = String::from_utf8_lossy(&tried.stdout);
    let told = String::from_utf8_lossy(&tried.stderr);
    assert!(tried.status.success(), "{said}\n{told}");
    let all = said.lines().find_map(|line| line.trim().strip_prefix("Selected: ")).unwrap();
    let (selected, all) = all.split_once('/').unwrap();
    assert!(selected == all && said.contains(&format!("Tested: {all}")), "{said}");
    assert_eq!(said.contains("Authentication failed"), !is_let_in, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_does_what_its_description_says_whoever_asks_and_never_answers_500() {
    let house = House::start();
    let (api, url) = serve(&house).await;
    for token in [Some(token()), None] {
        let url = url.clone();
        let is_let_in = token.is_some();
        let tried = tokio::task::spawn_blocking(move || try_all(&url, token.as_deref()));
        assert_held(&tried.await.unwrap(), is_let_in);
    }
    let log = api.log();
    assert!(!log.contains("ERROR"), "{log}");
    assert!(api.stop().await.success());
}
