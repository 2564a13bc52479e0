//! What the RPC client counts. Labels are bounded: the source's name, the endpoint's number in the configuration, the
//! method, and an outcome out of a fixed set.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

const REQUESTS: &str = "kms_connector_rpc_requests_total";
const CALLS: &str = "kms_connector_rpc_calls_total";
const SECONDS: &str = "kms_connector_rpc_request_seconds";
const IN_FLIGHT: &str = "kms_connector_rpc_in_flight_requests";
const WAITING: &str = "kms_connector_rpc_waiting_requests";
const UP: &str = "kms_connector_rpc_endpoint_up";
const FAILOVERS: &str = "kms_connector_rpc_failovers_total";
const LAGGING: &str = "kms_connector_rpc_lagging_answers_total";
const HEAD: &str = "kms_connector_rpc_head_block";

/// Registers help texts with the installed recorder. To be called once, by the program.
pub fn describe() {
    describe_counter!(REQUESTS, "HTTP requests to RPC endpoints, by endpoint, method and outcome");
    describe_counter!(CALLS, "JSON-RPC calls, of which one HTTP request holds several, by endpoint and method");
    describe_histogram!(SECONDS, Unit::Seconds, "Time from sending an RPC request to its parsed answer");
    describe_gauge!(IN_FLIGHT, "RPC requests that are running, by endpoint");
    describe_gauge!(WAITING, "RPC requests that wait for one of the endpoint's slots");
    describe_gauge!(UP, "1 while the RPC endpoint is used, 0 while it is marked down");
    describe_counter!(FAILOVERS, "Requests that another endpoint than the first one tried had to serve");
    describe_counter!(LAGGING, "Answers not used because the endpoint had not seen the block that was needed");
    describe_gauge!(HEAD, "Latest block number that the RPC endpoint reported");
    crate::authority::metrics::describe();
}

/// Labels of one endpoint.
#[derive(Clone, Debug)]
pub(crate) struct EndpointLabels {
    chain: String,
    endpoint: String,
}

impl EndpointLabels {
    pub(crate) fn new(chain: &str, index: usize) -> Self {
        Self { chain: chain.to_owned(), endpoint: index.to_string() }
    }

    pub(crate) fn request(&self, method: &'static str, outcome: &'static str, calls: usize, took: Duration) {
        let (chain, endpoint) = (self.chain.clone(), self.endpoint.clone());
        counter!(REQUESTS, "chain" => chain.clone(), "endpoint" => endpoint.clone(), "method" => method, "outcome" => outcome)
            .increment(1);
        counter!(CALLS, "chain" => chain.clone(), "endpoint" => endpoint.clone(), "method" => method)
            .increment(calls as u64);
        histogram!(SECONDS, "chain" => chain, "endpoint" => endpoint, "method" => method).record(took.as_secs_f64());
    }

    pub(crate) fn lagging(&self) {
        counter!(LAGGING, "chain" => self.chain.clone(), "endpoint" => self.endpoint.clone()).increment(1);
    }

    pub(crate) fn failover(&self) {
        counter!(FAILOVERS, "chain" => self.chain.clone(), "endpoint" => self.endpoint.clone()).increment(1);
    }

    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn head(&self, number: u64) {
        gauge!(HEAD, "chain" => self.chain.clone(), "endpoint" => self.endpoint.clone()).set(number as f64);
    }

    pub(crate) fn waiting(&self) -> Counted {
        Counted::new(WAITING, self)
    }

    pub(crate) fn in_flight(&self) -> Counted {
        Counted::new(IN_FLIGHT, self)
    }

    /// The endpoint is used (again).
    pub(crate) fn up(&self, url: &str, after: Duration) {
        self.set_up(1.0);
        tracing::info!(chain = %self.chain, endpoint = %self.endpoint, url, down_seconds = after.as_secs_f64(), "RPC endpoint is up");
    }

    /// The endpoint is not used until a probe succeeds.
    pub(crate) fn down(&self, url: &str, why: &dyn std::fmt::Display) {
        self.set_up(0.0);
        tracing::warn!(chain = %self.chain, endpoint = %self.endpoint, url, why = %why, "RPC endpoint is down");
    }

    pub(crate) fn set_up(&self, value: f64) {
        gauge!(UP, "chain" => self.chain.clone(), "endpoint" => self.endpoint.clone()).set(value);
    }
}

/// Counts in a gauge for as long as it lives, also when the future that holds it is dropped.
pub(crate) struct Counted(metrics::Gauge);

impl Counted {
    fn new(name: &'static str, labels: &EndpointLabels) -> Self {
        let gauge = gauge!(name, "chain" => labels.chain.clone(), "endpoint" => labels.endpoint.clone());
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
