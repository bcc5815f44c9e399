//! Help, completions and the manual page come from the command line, and so know every verb, those
//! above all that the documents send people to.

use std::{collections::BTreeSet, fs, path::Path};

use umbel_tests::process::Launch;

fn printed(args: &[&str]) -> String {
    let output = Launch::new("greeter", args).output();
    assert!(output.status.success(), "{args:?}: {}", super::text(&output.stderr));
    super::text(&output.stdout)
}

/// The verbs of the command line, as its help lists them.
fn verbs() -> BTreeSet<String> {
    let help = printed(&["--help"]);
    let (_, listed) = help.split_once("Commands:\n").unwrap();
    let rows = listed.lines().take_while(|line| line.starts_with("  "));
    rows.filter_map(|row| row.split_whitespace().next()).map(str::to_owned).collect()
}

/// What stands behind `umbel` where a document writes a command.
fn documented() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let pages = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = pages.chain(["README.md", "deploy/README.md"].map(|name| root.join(name)));
    let mut found = BTreeSet::new();
    for page in pages.filter(|page| page.extension().is_some_and(|end| end == "md")) {
        let text = fs::read_to_string(&page).unwrap();
        for (at, _) in text.match_indices("umbel ") {
            let (before, after) = (&text[..at], &text[at + "umbel ".len()..]);
            let is_command = ["`", "$ "].iter().any(|mark| before.ends_with(mark));
            let end = after.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(after.len());
            if is_command && end > 0 {
                found.insert(after[..end].to_owned());
            }
        }
    }
    found
}

#[test]
fn the_help_lists_every_verb_that_the_documents_name() {
    let (verbs, documented) = (verbs(), documented());
    assert!(documented.len() > 15, "{documented:?}");
    let missing: Vec<_> = documented.difference(&verbs).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let untold: Vec<_> = verbs.difference(&documented).collect();
    assert!(untold.is_empty(), "no document names {untold:?}");
}

#[test]
fn completions_know_every_verb() {
    for shell in ["bash", "zsh", "fish"] {
        let script = printed(&["completions", shell]);
        assert!(script.contains("greeter"), "{shell}");
        for verb in verbs() {
            assert!(script.contains(&verb), "{shell}: {verb}");
        }
    }
}

#[test]
fn the_manual_page_knows_every_verb() {
    let page = printed(&["man"]);
    assert!(page.contains(".TH greeter 1"), "{}", &page[..200]);
    // `help` is what prints this by pieces.
    for verb in verbs().into_iter().filter(|verb| verb != "help") {
        assert!(page.contains(&format!(".SH GREETER {}", verb.to_uppercase())), "{verb}");
    }
    assert!(page.contains("\\-\\-yes") && page.contains("\\-\\-json"));
}
