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
    services::PostgresServer,
};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// How many requests are thought up for each operation, beside those at the edges of its schemas.
const EXAMPLES: &str = "25";

/// An API as a process.
struct Tried {
    program: &'static str,
    process: Process,
    url: String,
}

impl Tried {
    async fn start(program: &'static str, house: &House, more: &[(&str, &str)]) -> Self {
        let port = free_port();
        let launch = Launch::new(program, &["api"])
            .env("REDIS_URL", house.redis.url_as("api"))
            .env("JWT_SECRET", SECRET)
            .env("PORT", port)
            // All of it comes from one address, and as one subject.
            .env("RATE_LIMIT", 0)
            .env("PEER_RATE_LIMIT", 0)
            .env("LOG_LEVEL", "warn");
        let launch = more.iter().fold(launch, |launch, (name, value)| launch.env(name, value));
        let process = launch.start();
        eventually("it listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        Self { program, process, url: format!("http://127.0.0.1:{port}") }
    }

    /// Of somebody who may do all.
    fn token(&self) -> String {
        let launch = Launch::new(self.program, &["token", "--scopes", "admin"]);
        let token = launch.env("JWT_SECRET", SECRET).output();
        assert!(token.status.success());
        String::from_utf8(token.stdout).unwrap().trim().to_owned()
    }

    /// Tries the operations whose paths match, at least so many, with a token and without.
    async fn hold(self, paths: &'static str, least: Option<usize>) {
        for token in [Some(self.token()), None] {
            let (url, is_let_in) = (self.url.clone(), token.is_some());
            let tried = tokio::task::spawn_blocking(move || try_all(&url, paths, token.as_deref()));
            assert_held(&tried.await.unwrap(), least, is_let_in);
        }
        let log = self.process.log();
        assert!(!log.contains("ERROR"), "{log}");
        assert!(self.process.stop().await.success());
    }
}

/// Tries the operations whose paths match; with a token or without.
fn try_all(url: &str, paths: &str, token: Option<&str>) -> Output {
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
        .args(["run", "--no-color", "--max-examples", EXAMPLES, "--include-path-regex", paths])
        .arg(format!("{url}/openapi.json"));
    if let Some(token) = token {
        tries.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
    let output = tries.output().unwrap();
    fs::remove_dir_all(&folder).unwrap();
    output
}

/// All that were selected were tried, at least so many, or all that there are; and let in whoever had a
/// token and nobody else.
fn assert_held(tried: &Output, least: Option<usize>, is_let_in: bool) {
    let said = String::from_utf8_lossy(&tried.stdout);
    let told = String::from_utf8_lossy(&tried.stderr);
    assert!(tried.status.success(), "{said}\n{told}");
    let all = said.lines().find_map(|line| line.trim().strip_prefix("Selected: ")).unwrap();
    let (selected, all) = all.split_once('/').unwrap();
    let (selected, all): (usize, usize) = (selected.parse().unwrap(), all.parse().unwrap());
    assert!(selected >= least.unwrap_or(all), "{said}");
    assert!(said.contains(&format!("Tested: {selected}")), "{said}");
    assert_eq!(said.contains("Authentication failed"), !is_let_in, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_does_what_its_description_says_whoever_asks_and_never_answers_500() {
    let house = House::start();
    Tried::start("umbel-probe", &house, &[]).await.hold(".", None).await;
}

/// The routes of the scraper, with its tables; the others it has of the framework. Nobody works here, so
/// that no site is visited.
#[tokio::test(flavor = "multi_thread")]
async fn the_scrapers_routes_do_what_their_description_says() {
    let house = House::start();
    let database = PostgresServer::shared().database();
    let url = database.url();
    let settings = [("DATABASE_URL", url.as_str())];
    let migrated = Launch::new("umbel", &["migrate"]).env("DATABASE_URL", &url).output();
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    let api = Tried::start("umbel", &house, &settings).await;
    api.hold("^/v1/(?!tasks|queues|dead|workers|schedules)", Some(4)).await;
}
