//! Completions and the manual page come from the command line, and so know every verb.

use umbel_tests::process::Launch;

const VERBS: [&str; 12] = [
    "inspect", "why", "pause", "resume", "cancel", "redrive", "purge", "tail", "top", "doctor",
    "enqueue", "migrate",
];

fn printed(args: &[&str]) -> String {
    let output = Launch::new("greeter", args).output();
    assert!(output.status.success(), "{args:?}: {}", super::text(&output.stderr));
    super::text(&output.stdout)
}

#[test]
fn completions_know_every_verb() {
    for shell in ["bash", "zsh", "fish"] {
        let script = printed(&["completions", shell]);
        assert!(script.contains("greeter"), "{shell}");
        for verb in VERBS {
            assert!(script.contains(verb), "{shell}: {verb}");
        }
    }
}

#[test]
fn the_manual_page_knows_every_verb() {
    let page = printed(&["man"]);
    assert!(page.contains(".TH greeter 1"), "{}", &page[..200]);
    for verb in VERBS {
        assert!(page.contains(&format!(".SH GREETER {}", verb.to_uppercase())), "{verb}");
    }
    assert!(page.contains("\\-\\-yes") && page.contains("\\-\\-json"));
}
