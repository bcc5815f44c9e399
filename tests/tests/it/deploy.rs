//! The manifests, read by the tools that will read them; and `umbel health`, by which they ask.

mod health;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use serde_json::Value;
use uuid::Uuid;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Where settings are told of.
const SETTINGS: [&str; 2] = ["deploy/README.md", "docs/CONFIGURATION.md"];

/// Set by a platform or meant for another program: no settings of ours.
const FOREIGN: [&str; 1] = ["_RJEM_MALLOC_CONF"];

/// What `scripts/manifests` has brought.
pub(crate) fn checks() -> &'static Path {
    static CHECKS: OnceLock<PathBuf> = OnceLock::new();
    CHECKS.get_or_init(|| {
        let brought = Command::new(Path::new(ROOT).join("scripts/manifests")).output().unwrap();
        assert!(brought.status.success(), "{}", text(&brought));
        PathBuf::from(String::from_utf8(brought.stdout).unwrap().trim())
    })
}

fn python(module: &str) -> Command {
    let mut python = Command::new("python3");
    python.args(["-m", module]).env("PYTHONPATH", checks()).current_dir(ROOT);
    python
}

fn helm(args: &[&str]) -> Output {
    let mut helm = Command::new(checks().join("bin/helm"));
    helm.args(args).current_dir(ROOT).output().unwrap()
}

pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    text(&output)
}

/// Folders of a test's own are gone with it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("umbel-deploy-{}", Uuid::new_v4().simple()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of it stands in the folder for such things.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What the chart makes of values, or why it refuses them.
fn chart(values: &[&str]) -> Result<String, String> {
    let output = helm(&[&["template", "house", "deploy/helm/umbel"], values].concat());
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(text(&output))
    }
}

const FULL: [&str; 2] = ["--values", "deploy/helm/umbel/ci/full-values.yaml"];

/// YAML as JSON, a document each.
fn documents(yaml: &str) -> Vec<Value> {
    let folder = Folder::new();
    let file = folder.write("documents.yaml", yaml);
    let script = "import sys, json, yaml; print(json.dumps([d for d in yaml.safe_load_all(open(sys.argv[1])) if d]))";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(&file).env("PYTHONPATH", checks());
    serde_json::from_str(&run(&mut python)).unwrap()
}

fn of_kind<'a>(all: &'a [Value], kind: &str) -> Vec<&'a Value> {
    all.iter().filter(|document| document["kind"] == kind).collect()
}

#[test]
fn the_chart_makes_what_kubernetes_understands() {
    let lint = helm(&[&["lint", "--strict", "deploy/helm/umbel"][..], &FULL].concat());
    assert!(lint.status.success(), "{}", text(&lint));
    let folder = Folder::new();
    for (name, values) in [("least", &["--set", "existingSecret=umbel"][..]), ("full", &FULL)] {
        let file = folder.write(name, &chart(values).unwrap());
        let said = run(python("kubernetes_validate").arg("--strict").arg(&file));
        // What Kubernetes itself does not know is asked about below.
        let unknown = said.lines().filter(|line| line.contains("WARN"));
        let is_foreign =
            |line: &str| line.contains("keda.sh/") || line.contains("monitoring.coreos");
        assert_eq!(unknown.filter(|line| !is_foreign(line)).count(), 0, "{said}");
        assert!(said.contains("deployment/house-umbel-api"), "{said}");
    }
}

#[test]
fn the_chart_refuses_what_would_fail_later() {
    let secret = ["--set", "existingSecret=umbel"];
    for (values, why) in [
        (&[][..], "existingSecret must name a Secret"),
        (&["--set", "api.replica=2"], "replica"),
        (&["--set", "settings.JWT_SECRET=x"], "settings"),
        (&["--set", "workers.default.keda.enabled=true"], "queues"),
        (&["--set", "workers.default.concurrency=0"], "concurrency"),
        (&["--set", "api.metricsPort=8000"], "metricsPort"),
    ] {
        let all = if values.is_empty() { values.to_vec() } else { [values, &secret].concat() };
        let said = chart(&all).unwrap_err();
        assert!(said.contains(why), "{values:?}: {said}");
    }
}

#[test]
fn every_pod_of_the_chart_is_a_plain_user_that_writes_nowhere_and_has_time_to_end() {
    let all = documents(&chart(&FULL).unwrap());
    let pods = [of_kind(&all, "Deployment"), of_kind(&all, "Job")].concat();
    assert_eq!(pods.len(), 5, "api, beat, two kinds of worker, migrate");
    for pod in pods {
        let spec = &pod["spec"]["template"]["spec"];
        let container = &spec["containers"][0];
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{pod}");
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{pod}");
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false, "{pod}");
        assert_eq!(container["envFrom"][0]["secretRef"]["name"], "umbel", "{pod}");
        let env = container["env"].as_array().unwrap();
        let grace = env.iter().find(|env| env["name"] == "GRACE").map(|env| &env["value"]);
        let grace: u64 = grace.map_or(25, |grace| {
            grace.as_str().unwrap().strip_suffix('s').unwrap().parse().unwrap()
        });
        let given = spec["terminationGracePeriodSeconds"].as_u64().unwrap();
        let is_worker = container["name"] == "worker";
        assert!(!is_worker || given >= grace + 15, "{given} s after {grace} s: {pod}");
    }
}

/// KEDA's keys as its documentation names them: no schema of it is to be had without its cluster.
#[test]
fn workers_are_scaled_by_what_waits_and_by_what_runs_in_every_stream_of_their_queues() {
    let all = documents(&chart(&FULL).unwrap());
    let scaled = of_kind(&all, "ScaledObject");
    assert_eq!(scaled.len(), 1);
    let triggers = scaled[0]["spec"]["triggers"].as_array().unwrap();
    for queue in ["scrape", "default"] {
        for stream in umbel_broker::keys::Stream::IN_ORDER {
            let shard = umbel_broker::keys::Shard::first(&queue.parse().unwrap());
            let of_stream = triggers.iter().filter(|trigger| {
                trigger["metadata"]["stream"] == shard.ready(stream).as_str()
                    && trigger["metadata"]["consumerGroup"] == umbel_broker::keys::GROUP
            });
            let by: Vec<_> = of_stream.map(|trigger| &trigger["metadata"]).collect();
            assert_eq!(by.len(), 2, "{queue} {}", stream.as_str());
            assert!(by[0]["lagCount"] == "50" && by[0]["activationLagCount"] == "0", "{by:?}");
            assert!(by[1]["pendingEntriesCount"] == "4", "{by:?}");
        }
    }
    let worker = of_kind(&all, "Deployment").into_iter().find(|deployment| {
        deployment["metadata"]["name"] == scaled[0]["spec"]["scaleTargetRef"]["name"]
    });
    // Two that set it would fight over it.
    assert!(worker.unwrap()["spec"].get("replicas").is_none());
}

fn compose(args: &[&str], password: Option<&str>) -> Output {
    let mut compose = Command::new("docker-compose");
    compose.args(args).current_dir(ROOT).env_remove("POSTGRES_PASSWORD").env("JWT_SECRET", "x");
    compose.envs(password.map(|password| ("POSTGRES_PASSWORD", password)));
    compose.output().unwrap()
}

#[test]
fn the_compose_files_are_understood() {
    let prod = ["--file", "docker-compose.yml", "--file", "docker-compose.prod.yml"];
    let split = ["--profile", "split"];
    let understood = |args: &[&str]| {
        let output = compose(&[args, &["config"]].concat(), Some("p"));
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        documents(&String::from_utf8(output.stdout).unwrap()).remove(0)["services"].clone()
    };
    understood(&[]);
    let all = understood(&[&prod[..], &split].concat());
    let limits = &all["umbel"]["deploy"]["resources"];
    assert_eq!(limits["limits"], serde_json::json!({"cpus": 0.5, "memory": "512M"}));
    assert_eq!(limits["reservations"], serde_json::json!({"cpus": "0.25", "memory": "256M"}));
    for service in ["umbel", "api", "worker", "beat"] {
        assert_eq!(all[service]["image"], all["umbel"]["image"]);
        assert_eq!(all[service]["read_only"], true);
    }
    let refused = compose(&[&prod[..], &["config"]].concat(), None);
    assert!(!refused.status.success() && text(&refused).contains("POSTGRES_PASSWORD"));
    // Newer than the program that Debian has.
    run(python("check_jsonschema")
        .args(["--builtin-schema", "vendor.compose-spec"])
        .args(["docker-compose.yml", "docker-compose.prod.yml"]));
}

#[test]
fn the_blueprints_have_the_keys_that_render_documents() {
    let schema = "tests/tests/it/deploy/blueprint.schema.json";
    let blueprints = ["render.yaml", "deploy/render-split.yaml"];
    run(python("check_jsonschema").args(["--schemafile", schema]).args(blueprints));
    for blueprint in blueprints {
        let yaml = fs::read_to_string(Path::new(ROOT).join(blueprint)).unwrap();
        let services = documents(&yaml).remove(0)["services"].as_array().unwrap().clone();
        let named = |kind: &Value, name: &Value| {
            services.iter().find(|service| service["type"] == *kind && service["name"] == *name)
        };
        for service in &services {
            for from in service["envVars"].as_array().unwrap_or(&vec![]) {
                let Some(from) = from.get("fromService") else { continue };
                let source =
                    named(&from["type"], &from["name"]).unwrap_or_else(|| panic!("{from}"));
                let Some(key) = from.get("envVarKey") else { continue };
                let has =
                    source["envVars"].as_array().unwrap().iter().any(|env| env["key"] == *key);
                assert!(has, "{blueprint}: {from}");
            }
        }
    }
    // A check that takes everything would take these.
    let folder = Folder::new();
    let good = fs::read_to_string(Path::new(ROOT).join("render.yaml")).unwrap();
    for (was, is) in [
        ("maxmemoryPolicy: noeviction", "maxmemoryPolicy: allkeys-lru"),
        ("healthCheckPath:", "healthcheckPath:"),
        ("maxShutdownDelaySeconds: 60", "maxShutdownDelaySeconds: 600"),
        ("    ipAllowList: [] # only from within\n", ""),
    ] {
        let bad = folder.write("render.yaml", &good.replace(was, is));
        let said = python("check_jsonschema").args(["--schemafile", schema]).arg(bad).output();
        assert!(!said.unwrap().status.success(), "{is}");
    }
}

#[test]
fn systemd_understands_the_unit() {
    let folder = Folder::new();
    let unit = fs::read_to_string(Path::new(ROOT).join("deploy/systemd/umbel@.service")).unwrap();
    // It looks for the program, which this machine need not have there.
    let unit = unit.replace("/usr/local/bin/umbel ", "/bin/true ");
    folder.write("umbel@.service", &unit);
    folder.write("wrong@.service", &unit.replace("KillMode=mixed", "KillMode=mixd"));
    let verify = |name: &str| {
        let mut verify = Command::new("systemd-analyze");
        // It only warns of what it does not understand.
        text(&verify.args(["verify", "--man=no", name]).current_dir(&folder.0).output().unwrap())
    };
    for role in ["up", "api", "worker", "beat"] {
        assert_eq!(verify(&format!("./umbel@{role}.service")), "");
    }
    assert_ne!(verify("./wrong@up.service"), "");
}

#[test]
fn what_the_manifests_set_are_settings() {
    let known: String = SETTINGS
        .iter()
        .filter_map(|file| fs::read_to_string(Path::new(ROOT).join(file)).ok())
        .collect();
    let mut set = Vec::new();
    for file in ["docker-compose.yml", "docker-compose.prod.yml"] {
        let yaml = fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
        let all = documents(&yaml).remove(0);
        for (service, definition) in all["services"].as_object().unwrap() {
            if matches!(service.as_str(), "umbel" | "migrate" | "api" | "worker" | "beat") {
                let names = definition["environment"].as_object().unwrap().keys();
                set.extend(names.map(|name| (file, name.clone())));
            }
        }
    }
    for file in ["render.yaml", "deploy/render-split.yaml"] {
        let yaml = fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
        for service in documents(&yaml).remove(0)["services"].as_array().unwrap() {
            let vars = service["envVars"].as_array().cloned().unwrap_or_default();
            set.extend(vars.iter().map(|var| (file, var["key"].as_str().unwrap().to_owned())));
        }
    }
    let chart = documents(&chart(&FULL).unwrap());
    for deployment in of_kind(&chart, "Deployment") {
        let env =
            deployment["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
        let names = env.iter().map(|env| env["name"].as_str().unwrap().to_owned());
        set.extend(names.map(|name| ("the chart", name)));
    }
    let dockerfile = fs::read_to_string(Path::new(ROOT).join("Dockerfile")).unwrap();
    let env = dockerfile.split_once("\nENV ").unwrap().1.split_once("\nEXPOSE").unwrap().0;
    let names = env.split_ascii_whitespace().filter_map(|word| word.split_once('='));
    set.extend(names.map(|(name, _)| ("Dockerfile", name.to_owned())));

    assert!(set.len() > 40, "{set:?}");
    for (file, name) in set {
        let is_known = known.contains(&format!("`{name}`")) || FOREIGN.contains(&name.as_str());
        assert!(is_known, "{file} sets {name}, which is no setting of {SETTINGS:?}");
    }
}
