//! What a task is: its arguments, its name, its output. How it runs is the worker's `Handler`.

use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

use crate::TaskOptions;

/// A unit of work that can be enqueued: the struct holds the arguments and is the wire format.
///
/// Fields may be added with `#[serde(default)]` and must not change their meaning: an older or
/// newer worker may read them during a deploy.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a task",
    note = "implement `Task` for it: a NAME, an Output, and derives for Serialize, Deserialize and JsonSchema"
)]
pub trait Task: Serialize + DeserializeOwned + JsonSchema + Send + 'static {
    /// The name on the wire, unique in a registry: 1–128 of `a-z 0-9 . _ -`.
    const NAME: &'static str;

    /// Defaults for every call; a call may override them.
    const OPTIONS: TaskOptions = TaskOptions::DEFAULT;

    /// What a successful run returns; kept as the task's result.
    type Output: Serialize + DeserializeOwned + JsonSchema + Send + 'static;
}
