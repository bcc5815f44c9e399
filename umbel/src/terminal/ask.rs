//! The question before something is destroyed.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::bail;

/// Goes on only with a `yes`: by the flag, or by who sits at the terminal. Where nobody does, and the
/// flag is not given, it refuses.
pub(super) fn consent(what: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        bail!(
            "{what}: this cannot be undone, and nobody is at a terminal to be asked; --yes goes on"
        );
    }
    eprint!("{what}. This cannot be undone. Go on? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("nothing was done");
    }
    Ok(())
}
