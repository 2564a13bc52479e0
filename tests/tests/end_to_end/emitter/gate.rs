//! Holds a call of the emitter to its node, so that a test can act exactly there.

use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::sync::watch;

use super::bench::LIMIT;
use super::node_proxy::{Node, NodeProxy, Reply};

/// Where a call is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// It has arrived, and the node does not know of it.
    Request,
    /// The node has answered, and the emitter does not know of it.
    Reply,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Held,
    Released,
    Lost,
}

/// Calls of one method that are held, from now until they are released or lost.
#[derive(Debug)]
pub(super) struct Hold {
    method: &'static str,
    at: At,
    reached: watch::Sender<usize>,
    fate: watch::Sender<Fate>,
}

impl Hold {
    /// Waits until a call is held.
    pub(super) async fn reached(&self) {
        let mut reached = self.reached.subscribe();
        let waited = tokio::time::timeout(LIMIT, reached.wait_for(|calls| *calls > 0)).await;
        assert!(waited.is_ok_and(|seen| seen.is_ok()), "no {} came", self.method);
    }

    /// They go on as if nothing had been.
    pub(super) fn release(&self) {
        self.fate.send_replace(Fate::Released);
    }

    /// Whoever asked is gone: a request never reaches the node, a reply nobody.
    pub(super) fn lose(&self) {
        self.fate.send_replace(Fate::Lost);
    }
}

/// See the [module](self).
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<Mutex<Option<Arc<Hold>>>>);

impl Gate {
    /// A proxy in front of a node that passes everything on, but for what is held.
    pub(super) async fn before(&self, node: &str) -> NodeProxy {
        let gate = self.clone();
        NodeProxy::start(
            node,
            Arc::new(move |node, method, params| {
                let hold = gate.of(method);
                Box::pin(async move { pass(hold, node, method, params).await })
            }),
        )
        .await
    }

    /// Holds calls of this method from now on.
    pub(super) fn hold(&self, method: &'static str, at: At) -> Arc<Hold> {
        let (reached, fate) = (watch::channel(0).0, watch::channel(Fate::Held).0);
        let hold = Arc::new(Hold { method, at, reached, fate });
        *self.0.lock().unwrap() = Some(hold.clone());
        hold
    }

    /// Holds nothing more; what is held stays so.
    pub(super) fn open(&self) {
        *self.0.lock().unwrap() = None;
    }

    fn of(&self, method: &str) -> Option<Arc<Hold>> {
        self.0.lock().unwrap().clone().filter(|hold| hold.method == method)
    }
}

async fn pass(hold: Option<Arc<Hold>>, node: &Node, method: &str, params: &Value) -> Reply {
    let Some(hold) = hold else { return Reply::PassOn };
    let said = match hold.at {
        At::Request => None,
        At::Reply => Some(node.say(method, params).await),
    };
    hold.reached.send_modify(|calls| *calls += 1);
    let mut fate = hold.fate.subscribe();
    let fate = fate.wait_for(|fate| *fate != Fate::Held).await.map(|fate| *fate);
    match (fate, said) {
        (Ok(Fate::Released), said) => said.unwrap_or(Reply::PassOn),
        _ => Reply::Cut,
    }
}
