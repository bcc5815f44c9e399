//! The documents name what is there: every script and every key of the protocol.

use std::{fs, path::Path};

use umbel_broker::keys::{self, Shard, Stream};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Shared parts of scripts: no transitions of their own.
const PARTS: [&str; 5] = ["entry", "fence", "limit", "shown", "waiting"];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

#[test]
fn the_protocol_document_tells_of_every_script() {
    let text = read("docs/PROTOCOL.md");
    let mut scripts = 0;
    for file in fs::read_dir(Path::new(ROOT).join("broker/src/scripts")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if !PARTS.contains(&name.as_str()) {
            assert!(text.contains(&format!("`{name}`")), "{name} is missing in docs/PROTOCOL.md");
            scripts += 1;
        }
    }
    assert!(scripts > 10, "the scripts lie elsewhere now");
}

#[test]
fn the_protocol_document_tells_of_every_key_that_is_in_use() {
    let text = read("docs/PROTOCOL.md");
    let shard = Shard::first(&"q".parse().unwrap());
    let mut names: Vec<String> = Stream::IN_ORDER.map(|stream| shard.ready(stream)).to_vec();
    names.extend([
        shard.delayed(),
        shard.parked(),
        shard.parked_as("<name>"),
        shard.waiting(),
        shard.dead(),
        shard.suspects(),
        shard.control(),
        shard.wake(),
        shard.idempotency("<key>"),
    ]);
    for name in names {
        let name = name.strip_prefix(&shard.prefix()).unwrap();
        assert!(text.contains(&format!("`{name}`")), "{name} is missing in docs/PROTOCOL.md");
    }
    let limit = keys::limit("<name>", "<key>");
    let claimed = keys::claimed("<key>");
    for name in [
        keys::heartbeat(),
        keys::worker_info(),
        keys::beat_entries(),
        keys::beat_due(),
        keys::queues(),
        &limit,
        &claimed,
    ] {
        assert!(text.contains(&format!("`{name}`")), "{name} is missing in docs/PROTOCOL.md");
    }
}
