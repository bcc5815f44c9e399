//! Names of the metrics that are made here; those of the other crates stand where they are counted.
//! docs/METRICS.md tells what all of them mean.

pub(crate) const SPANS_LOST: &str = "umbel_spans_lost_total";
pub(crate) const ROLE_STARTS: &str = "umbel_role_starts_total";

pub(crate) const QUEUE_DEPTH: &str = "umbel_queue_depth_tasks";
pub(crate) const QUEUE_OLDEST: &str = "umbel_queue_oldest_age_seconds";
pub(crate) const QUEUE_RUNNING: &str = "umbel_queue_running_tasks";
pub(crate) const QUEUE_DELAYED: &str = "umbel_queue_delayed_tasks";
pub(crate) const QUEUE_PARKED: &str = "umbel_queue_parked_tasks";
pub(crate) const QUEUE_DEAD: &str = "umbel_queue_dead_tasks";
pub(crate) const QUEUE_PAUSED: &str = "umbel_queue_paused";
pub(crate) const WORKERS: &str = "umbel_workers";
pub(crate) const WORKER_SLOTS: &str = "umbel_worker_slots";
pub(crate) const HEARTBEAT_AGE: &str = "umbel_worker_heartbeat_age_seconds";
pub(crate) const REDIS_UP: &str = "umbel_redis_up";
pub(crate) const REDIS_CLIENTS: &str = "umbel_redis_clients";
pub(crate) const REDIS_CLIENTS_MOST: &str = "umbel_redis_clients_max";
pub(crate) const REDIS_MEMORY: &str = "umbel_redis_memory_bytes";
pub(crate) const REDIS_MEMORY_MOST: &str = "umbel_redis_memory_max_bytes";
