//! The README is true: its commands run, its code is code of the tree.

mod scripts;
mod settings;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use umbel_tests::{
    eventually::eventually,
    process::{Launch, Process, binary, free_port},
    services::{PostgresServer, RedisServer},
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The code blocks of the README in a language.
fn blocks(language: &str) -> Vec<String> {
    blocks_of("README.md", language)
}

fn blocks_of(document: &str, language: &str) -> Vec<String> {
    let readme = read(document);
    let fence = format!("```{language}\n");
    readme
        .split(&fence)
        .skip(1)
        .map(|rest| rest.split("\n```").next().unwrap().to_owned())
        .collect()
}

/// The commands of its shell blocks that begin with a program, one a line, continued lines joined.
fn commands(program: &str) -> Vec<String> {
    let all = blocks("sh").join("\n").replace("\\\n", " ");
    let start = format!("{program} ");
    let found: Vec<String> =
        all.lines().filter(|line| line.starts_with(&start)).map(str::to_owned).collect();
    assert!(!found.is_empty(), "the README has commands of {program}");
    found
}

fn shell(command: &str, env: &[(&str, &str)]) -> Output {
    Command::new("sh").args(["-c", command]).envs(env.iter().copied()).output().unwrap()
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// The API without a worker: nothing that is asked of it leaves the machine.
struct ApiAlone {
    process: Process,
    url: String,
    port: u16,
    redis: RedisServer,
}

impl ApiAlone {
    /// Without tables: what needs none.
    async fn start() -> Self {
        Self::with("postgres://nobody@127.0.0.1:1/none").await
    }

    async fn with(database: &str) -> Self {
        let (redis, port) = (RedisServer::start(), free_port());
        let process = Self::umbel(&redis, port, &["api"]).env("DATABASE_URL", database).start();
        let url = format!("http://127.0.0.1:{port}");
        eventually("the API answers", async || {
            shell(&format!("curl -sf {url}/livez"), &[]).status.success().then_some(())
        })
        .await;
        Self { process, url, port, redis }
    }

    fn umbel(redis: &RedisServer, port: u16, args: &[&str]) -> Launch {
        Launch::new("umbel", args)
            .env("REDIS_URL", redis.url())
            .env("JWT_SECRET", SECRET)
            .env("PORT", port)
    }

    /// A token that it believes.
    fn token(&self, args: &[&str]) -> String {
        let output = Self::umbel(&self.redis, self.port, &[&["token"], args].concat()).output();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

#[test]
fn its_code_stands_in_the_tree() {
    let sources: Vec<String> =
        ["examples/greeter/src/greet.rs", "examples/greeter/src/main.rs", "umbel/src/lib.rs"]
            .iter()
            // In documentation every line begins with its mark.
            .map(|path| {
                read(path)
                    .lines()
                    .map(|line| line.trim_start_matches("//! "))
                    .collect::<Vec<_>>()
                    .join("\n")
            })
            .collect();
    let snippets = blocks("rust");
    assert_eq!(snippets.len(), 3);
    for snippet in snippets {
        assert!(sources.iter().any(|source| source.contains(&snippet)), "nowhere:\n{snippet}");
    }
}

#[test]
fn its_picture_is_that_of_the_house() {
    let architecture = read("docs/ARCHITECTURE.md");
    for line in blocks("").iter().find(|block| block.contains("proto")).unwrap().lines() {
        let crates: Vec<&str> = line.split("  ").next().unwrap().split_whitespace().collect();
        assert!(!crates.is_empty());
        for name in line.split_whitespace().take_while(|word| root().join(word).is_dir()) {
            assert!(architecture.contains(name), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_commands_of_the_smallest_application_run() {
    let redis = RedisServer::start();
    let port = free_port().to_string();
    let path =
        format!("{}:{}", binary("greeter").parent().unwrap().display(), env::var("PATH").unwrap());
    let url = redis.url();
    let env = [("PATH", &*path), ("REDIS_URL", &*url), ("JWT_SECRET", SECRET), ("PORT", &*port)];
    let lines = commands("greeter");
    let [up, enqueue, status] = <[String; 3]>::try_from(lines).unwrap();
    assert!(up.starts_with("greeter up"));
    let up = Launch::new("greeter", &["up"])
        .env("REDIS_URL", &url)
        .env("JWT_SECRET", SECRET)
        .env("PORT", &port)
        .start();
    let enqueued = shell(&enqueue, &env);
    assert!(enqueued.status.success(), "{}", said(&enqueued));
    let id = String::from_utf8(enqueued.stdout).unwrap();
    let status = status.replace("<id>", id.trim());
    eventually("the greeting", async || {
        said(&shell(&status, &env)).contains("Hello, Ada!").then_some(())
    })
    .await;
    assert_eq!(up.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn its_requests_and_looks_inside_run() {
    let api = ApiAlone::start().await;
    let (redis, token) = (&api.redis, api.token(&[]));
    let env = [("API_URL", &*api.url), ("TOKEN", &*token)];

    let [post, get] = <[String; 2]>::try_from(commands("curl")).unwrap();
    let accepted = said(&shell(&format!("{post} -sS --fail-with-body"), &env));
    let id = accepted.split("\"id\":\"").nth(1).unwrap_or_else(|| panic!("{accepted}"));
    let id = id.split('"').next().unwrap();
    let get = get.replace("<id>", id);
    let shown = said(&shell(&format!("{get} -sS --fail-with-body"), &env));
    assert!(shown.contains("\"state\":\"queued\""), "{shown}");

    // A worker has been there once, so that there is a group to look at.
    redis.cli(&["XGROUP", "CREATE", "umbel:{scrape}:ready:normal", "workers", "0"]);
    let port = redis.port().to_string();
    for line in commands("redis-cli") {
        // -e: an error of Redis is an error of the command.
        let line = line.replacen("redis-cli", &format!("redis-cli -e -p {port}"), 1);
        let output = shell(&line.replace("<id>", id), &[]);
        assert!(output.status.success(), "{line}: {}", said(&output));
    }
    let next = commands("redis-cli").into_iter().find(|line| line.contains("XRANGE")).unwrap();
    let next = next.replacen("redis-cli", &format!("redis-cli -p {port}"), 1);
    assert!(said(&shell(&next, &[])).contains("pages.scrape"));
    assert_eq!(api.process.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_of_the_api_can_be_made() {
    let database = PostgresServer::shared().database();
    let migrate = Launch::new("umbel", &["migrate"]).env("DATABASE_URL", database.url()).output();
    assert!(migrate.status.success(), "{}", said(&migrate));
    let api = ApiAlone::with(&database.url()).await;
    let (tasks, admin) = (api.token(&[]), api.token(&["--scopes", "admin"]));
    let env = [("API_URL", &*api.url), ("TOKEN", &*tasks), ("ADMIN", &*admin)];
    let mut id = String::new();
    let mut made = 0;
    for line in blocks_of("docs/API.md", "sh").join("\n").lines() {
        // An answer that is an error is an error of the command.
        let line = line.replace("<id>", &id).replacen("curl ", "curl --fail-with-body ", 1);
        let output = shell(&line, &env);
        let told = said(&output);
        assert!(output.status.success(), "{line}: {told}");
        if let Some(rest) = told.strip_prefix("{\"id\":\"") {
            id = rest.split('"').next().unwrap().to_owned();
        }
        made += 1;
    }
    assert!(made > 12, "{made}");
    assert_eq!(api.process.stop().await.code(), Some(0));
}

/// In a debug build: this is about the command, not about its figures.
#[test]
fn its_load_on_the_api_is_enqueued_whole() {
    let output = Command::new(binary("umbel-load"))
        .args(["--connections", "8", "--seconds", "1"])
        .output()
        .unwrap();
    assert!(output.status.success() && said(&output).contains(" 0 errors"), "{}", said(&output));
}
