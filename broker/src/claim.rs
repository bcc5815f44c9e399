//! Idempotency keys that hold over all queues.
//!
//! The key that `enqueue` remembers lies beside its queue, so it cannot tell of another one. Where a
//! caller chooses the queue, the key is claimed first, in a place of its own. The claim says which call it
//! is for and not which task came of it: that stays with `enqueue`, so a crash between the two costs
//! nothing, and who comes again goes the same way. A claim is kept anew with each repetition, for it must
//! not end before what `enqueue` remembers.

use crate::{BrokerError, Client, NewTask, keys, new_task::IDEMPOTENCY_TTL};

impl Client {
    /// Claims the idempotency key of a task that is then to be submitted: the same key with another
    /// call or queue is refused. Without a key there is nothing to claim.
    pub async fn claim_key(&self, new: &NewTask) -> Result<(), BrokerError> {
        let Some(key) = new.idempotency_key()? else { return Ok(()) };
        let mut call = self.scripts().claim_key.key(keys::claimed(key));
        call.arg(format!("{} {}", new.queue, new.fingerprint()?)).arg(IDEMPOTENCY_TTL.as_secs());
        match self.call(&call).await? {
            1 => Ok(()),
            0 => Err(BrokerError::KeyConflict { key: key.to_owned() }),
            other => Err(BrokerError::Unexpected(format!("claim_key answered {other}"))),
        }
    }
}
