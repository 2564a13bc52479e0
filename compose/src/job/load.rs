//! Makes the decryption requests: ciphertexts with their access rights first, then the requests at the wanted rate.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy::primitives::{Address, B256, Bytes, keccak256};
use alloy::signers::local::PrivateKeySigner;
use futures::stream::{self, StreamExt, TryStreamExt};
use kms_schemas::record::HandleEntry;

use super::JobArgs;
use super::lifecycle::Lifecycle;
use super::mix::{Decryption, Mix};
use super::watch::through;
use crate::contracts::{Material, NewRequest, Pace, RequestCall, Requester, UnifiedRequest, UserRequest, handle};
use crate::description::Description;
use crate::error::StackError;
use crate::keys::development_key;
use crate::stack::Generation;

/// Ciphertexts that the decryptions are about; each is used many times in a large run.
const MATERIALS: usize = 32;
/// FHE types of the ciphertexts, one after the other (`docs/protocol.md`, "FHE types").
const FHE_TYPES: [u8; 8] = [0, 2, 3, 4, 5, 6, 7, 8];
/// Uploads at once.
const UPLOADS: usize = 8;
/// A user's ML-KEM public key as user clients encode it (869 bytes).
const USER_PUBLIC_KEY: &str = include_str!("user_public_key.hex");
/// How often the chain is asked whether it still has what was sent.
const RESEND_INTERVAL: Duration = Duration::from_secs(2);

pub(super) struct Load<'a> {
    stack: &'a Description,
    args: &'a JobArgs,
    requester: Requester,
    /// How long an outage is borne.
    outage: Duration,
}

/// Who asks, and for whom.
struct Cast {
    /// The contract that the handles are used with.
    application: Address,
    user: PrivateKeySigner,
    /// Who delegated to the user.
    delegator: Address,
    /// A contract that takes the user's signature for its own; generation (b).
    wallet: Option<Address>,
    public_key: Bytes,
}

impl<'a> Load<'a> {
    pub(super) fn new(stack: &'a Description, args: &'a JobArgs, requester: Requester, outage: Duration) -> Self {
        Self { stack, args, requester, outage }
    }

    pub(super) fn requester(&self) -> &Requester {
        &self.requester
    }

    /// Uploads and registers the ciphertexts, grants the access rights, and signs `count` decryption requests.
    pub(super) async fn prepare(&self, lifecycle: &Lifecycle, count: u32) -> Result<Vec<RequestCall>, StackError> {
        let user = development_key("user");
        let wallet = match self.stack.generation {
            Generation::A => None,
            Generation::B => Some(self.requester.wallet(&user).await.map_err(chain_error)?),
        };
        let cast = Cast {
            application: Address::repeat_byte(0xa9),
            user,
            delegator: Address::repeat_byte(0xde),
            wallet,
            public_key: hex::decode(USER_PUBLIC_KEY.trim()).map(Bytes::from).unwrap_or_default(),
        };
        let contracts = &self.stack.contracts;
        let (mut materials, mut bodies) = (Vec::with_capacity(MATERIALS), Vec::with_capacity(MATERIALS));
        for index in 0..MATERIALS {
            let body = body(index, self.args.ciphertext_bytes as usize);
            let digest = keccak256(&body);
            let fhe_type = FHE_TYPES[index % FHE_TYPES.len()];
            materials.push(Material {
                handle: handle(keccak256(digest), contracts.host_chain_id, fhe_type),
                key_id: lifecycle.key_id,
                ciphertext_digest: keccak256(B256::with_last_byte(index as u8)),
                sns_ciphertext_digest: digest,
            });
            bodies.push(body);
        }
        self.upload(&materials, &bodies).await?;
        let handles: Vec<B256> = materials.iter().map(|material| material.handle).collect();
        let accounts = [cast.application, cast.user.address(), cast.delegator].into_iter().chain(cast.wallet);
        let accounts: Vec<Address> = accounts.collect();
        let rights: Vec<(B256, Address)> =
            handles.iter().flat_map(|handle| accounts.iter().map(|account| (*handle, *account))).collect();
        self.requester.register(&materials).await.map_err(chain_error)?;
        self.requester.allow_public(&handles).await.map_err(chain_error)?;
        self.requester.allow_accounts(&rights).await.map_err(chain_error)?;
        let expires = seconds_since_1970() + 365 * 24 * 3600;
        let contracts = [cast.application];
        let delegated = self.requester.delegate(cast.delegator, cast.user.address(), &contracts, expires);
        delegated.await.map_err(chain_error)?;
        self.sign(&handles, &cast, lifecycle, count)
    }

    fn sign(
        &self,
        handles: &[B256],
        cast: &Cast,
        lifecycle: &Lifecycle,
        count: u32,
    ) -> Result<Vec<RequestCall>, StackError> {
        let per_request = self.args.handles as usize;
        let mix = self.args.mix.unwrap_or_else(|| Mix::of(self.stack.generation));
        let named = &lifecycle.extra_data;
        mix.plan(count)
            .into_iter()
            .enumerate()
            .map(|(index, decryption)| {
                let chosen: Vec<B256> =
                    (0..per_request).map(|offset| handles[(index * per_request + offset) % handles.len()]).collect();
                let request = self.request(decryption, chosen, cast, named[index % named.len()].clone());
                self.requester.prepare(&request).map_err(chain_error)
            })
            .collect()
    }

    fn request(&self, decryption: Decryption, handles: Vec<B256>, cast: &Cast, extra_data: Bytes) -> NewRequest {
        // The chain's clock may lag behind this machine's by a block.
        let start = seconds_since_1970() - 60;
        let legacy = |handles: &[B256], extra_data: Bytes| UserRequest {
            pairs: handles.iter().map(|handle| (*handle, cast.application)).collect(),
            contracts: vec![cast.application],
            start,
            days: 30,
            public_key: cast.public_key.clone(),
            extra_data,
        };
        let unified = |handles: &[B256], owner: Address, extra_data: Bytes| UnifiedRequest {
            entries: handles
                .iter()
                .map(|handle| HandleEntry { handle: *handle, contract: cast.application, owner })
                .collect(),
            allowed_contracts: vec![cast.application],
            start,
            duration_seconds: 30 * 24 * 3600,
            public_key: cast.public_key.clone(),
            extra_data,
        };
        let user = cast.user.clone();
        match decryption {
            Decryption::Public => NewRequest::PublicDecryption { handles, extra_data },
            Decryption::User => NewRequest::UserDecryption { user, request: legacy(&handles, extra_data) },
            Decryption::Delegated => NewRequest::DelegatedUserDecryption {
                delegator: cast.delegator,
                delegate: user,
                request: legacy(&handles, extra_data),
            },
            Decryption::Unified => {
                let request = unified(&handles, user.address(), extra_data);
                NewRequest::UnifiedUserDecryption { user: user.address(), signer: user, request }
            }
            Decryption::Wallet => {
                let wallet = cast.wallet.unwrap_or(user.address());
                let request = unified(&handles, wallet, extra_data);
                NewRequest::UnifiedUserDecryption { user: wallet, signer: user, request }
            }
        }
    }

    /// Puts every ciphertext into every coprocessor's bucket, in the generation's way.
    async fn upload(&self, materials: &[Material], bodies: &[Vec<u8>]) -> Result<(), StackError> {
        let pairs = (0..self.stack.buckets.len()).flat_map(|coprocessor| {
            materials.iter().zip(bodies).map(move |(material, body)| (coprocessor, material, body))
        });
        let pairs: Vec<_> = pairs.collect();
        stream::iter(pairs)
            .map(|(coprocessor, material, body)| async move {
                let put =
                    through(self.outage, async || self.stack.put_ciphertext(coprocessor, material, body.clone()).await);
                put.await.map_err(|error| StackError::Job(format!("a ciphertext could not be uploaded: {error}")))
            })
            .buffer_unordered(UPLOADS)
            .try_collect()
            .await
    }

    /// Sends the decryption requests at the wanted rate, without waiting for blocks.
    pub(super) async fn send(&self, decryptions: &[RequestCall]) -> Result<(), StackError> {
        let pace = if self.args.rate > 0.0 { Pace::PerSecond(self.args.rate) } else { Pace::AtOnce };
        self.requester.submit_calls(decryptions, pace).await.map_err(chain_error)?;
        Ok(())
    }

    /// Looks after what was sent, for ever: an outage of the chain, or a transaction that its node dropped, must not end the load.
    pub(super) async fn keep_sent(&self) {
        loop {
            tokio::time::sleep(RESEND_INTERVAL).await;
            // A chain that does not answer is asked again; that nothing arrives is what the observer's patience is for.
            for account in self.requester.accounts() {
                let _ = account.send_lost_again().await;
            }
        }
    }
}

pub(super) fn chain_error(error: crate::contracts::ContractsError) -> StackError {
    StackError::Contracts(crate::error::chain_of(&error))
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Bytes that look like no other ciphertext's: a hash chain, cut to length.
fn body(index: usize, length: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(length + 32);
    let mut block = keccak256((index as u64).to_be_bytes());
    while body.len() < length {
        body.extend_from_slice(block.as_slice());
        block = keccak256(block);
    }
    body.truncate(length);
    body
}
