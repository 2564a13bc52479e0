//! Makes the requests: key material first, then ciphertexts with their access rights, then decryptions at the wanted rate.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::signers::local::PrivateKeySigner;
use futures::stream::{self, StreamExt, TryStreamExt};
use kms_schemas::identity::{Kind, RequestId};

use crate::contracts::{Call, Material, NewRequest, Pace, Requester, UserRequest, handle};
use crate::error::StackError;
use crate::keys::development_key;
use crate::stack::Stack;

use super::JobArgs;
use super::mix::{Decryption, KEY_REQUESTS};
use super::observer::Observer;

/// Ciphertexts that the decryptions are about; each is used many times in a large run.
const MATERIALS: usize = 32;
/// FHE types of the ciphertexts, one after the other (`docs/protocol.md`, "FHE types").
const FHE_TYPES: [u8; 8] = [0, 2, 3, 4, 5, 6, 7, 8];
/// Uploads at once.
const UPLOADS: usize = 8;
/// A user's ML-KEM public key as user clients encode it (869 bytes).
const USER_PUBLIC_KEY: &str = include_str!("user_public_key.hex");
/// Bits of the CRS.
const CRS_BITS: u64 = 2048;
/// How often the chain is asked whether it still has what was sent.
const RESEND_INTERVAL: Duration = Duration::from_secs(2);
/// `ParamsType` test.
const TEST_PARAMS: u8 = 1;

pub(super) struct Load<'a> {
    stack: &'a Stack,
    args: &'a JobArgs,
    requester: Requester,
}

impl<'a> Load<'a> {
    pub(super) async fn new(stack: &'a Stack, args: &'a JobArgs) -> Result<Self, StackError> {
        Ok(Self { stack, args, requester: stack.requester().await.map_err(chain_error)? })
    }

    /// Asks for a key and a CRS, and waits until every node's answers are accepted: decryptions need the key.
    pub(super) async fn key_material(&self, observer: &Observer, patience: Duration) -> Result<(), StackError> {
        let requests = [
            NewRequest::Keygen { params_type: TEST_PARAMS },
            NewRequest::Crsgen { max_bit_length: U256::from(CRS_BITS), params_type: TEST_PARAMS },
        ];
        self.requester.submit(&requests, Pace::AtOnce).await.map_err(chain_error)?;
        let signers: Vec<Address> = self.stack.nodes().iter().map(crate::stack::Node::signer).collect();
        let finished = observer
            .wait_until(patience, |view| {
                let mut names = view.requests.keys().filter(|(kind, _)| kind.lane() != Kind::PublicDecryption.lane());
                let complete = names.clone().count() == KEY_REQUESTS as usize;
                complete && names.all(|name| view.accepted(name, &signers).all(|accepted| accepted.is_some()))
            })
            .await;
        if finished {
            return Ok(());
        }
        Err(StackError::Job(format!(
            "the key and the CRS were not accepted from every node within {} s of the last sign of life; see the services' logs",
            patience.as_secs()
        )))
    }

    /// Uploads and registers the ciphertexts, grants the access rights, and signs every decryption request.
    pub(super) async fn prepare(&self) -> Result<Vec<(bool, Call)>, StackError> {
        let contracts = self.stack.contracts();
        let key_id = RequestId::from((U256::from(4) << 248) | U256::from(1));
        let application = Address::repeat_byte(0xa9);
        let user = development_key("user");
        let delegator = Address::repeat_byte(0xde);
        let mut materials = Vec::with_capacity(MATERIALS);
        let mut bodies = Vec::with_capacity(MATERIALS);
        for index in 0..MATERIALS {
            let body = body(index, self.args.ciphertext_bytes as usize);
            let digest = keccak256(&body);
            let fhe_type = FHE_TYPES[index % FHE_TYPES.len()];
            materials.push(Material {
                handle: handle(keccak256(digest), contracts.host_chain_id, fhe_type),
                key_id,
                ciphertext_digest: keccak256(B256::with_last_byte(index as u8)),
                sns_ciphertext_digest: digest,
            });
            bodies.push((digest, body));
        }
        let handles: Vec<B256> = materials.iter().map(|material| material.handle).collect();
        let rights: Vec<(B256, Address)> = handles
            .iter()
            .flat_map(|handle| [application, user.address(), delegator].map(|account| (*handle, account)))
            .collect();
        self.upload(&bodies).await?;
        self.requester.register(&materials).await.map_err(chain_error)?;
        self.requester.allow_public(&handles).await.map_err(chain_error)?;
        self.requester.allow_accounts(&rights).await.map_err(chain_error)?;
        let expires = seconds_since_1970() + 365 * 24 * 3600;
        self.requester.delegate(delegator, user.address(), &[application], expires).await.map_err(chain_error)?;
        self.sign(&handles, application, &user, delegator)
    }

    fn sign(
        &self,
        handles: &[B256],
        application: Address,
        user: &PrivateKeySigner,
        delegator: Address,
    ) -> Result<Vec<(bool, Call)>, StackError> {
        let contracts = self.stack.contracts();
        let public_key = hex::decode(USER_PUBLIC_KEY.trim()).map(Bytes::from).unwrap_or_default();
        let per_request = self.args.handles as usize;
        let plan = self.args.mix.plan(self.args.requests - KEY_REQUESTS);
        plan.into_iter()
            .enumerate()
            .map(|(index, decryption)| {
                let chosen: Vec<B256> =
                    (0..per_request).map(|offset| handles[(index * per_request + offset) % handles.len()]).collect();
                let request = || UserRequest {
                    pairs: chosen.iter().map(|handle| (*handle, application)).collect(),
                    contracts: vec![application],
                    // The chain's clock may lag behind this machine's by a block.
                    start: seconds_since_1970() - 60,
                    days: 30,
                    public_key: public_key.clone(),
                    extra_data: Bytes::new(),
                };
                let request = match decryption {
                    Decryption::Public => NewRequest::PublicDecryption { handles: chosen, extra_data: Bytes::new() },
                    Decryption::User => NewRequest::UserDecryption { user: user.clone(), request: request() },
                    Decryption::Delegated => {
                        NewRequest::DelegatedUserDecryption { delegator, delegate: user.clone(), request: request() }
                    }
                };
                Ok((request.is_owners(), request.call(contracts).map_err(chain_error)?))
            })
            .collect()
    }

    async fn upload(&self, bodies: &[(B256, Vec<u8>)]) -> Result<(), StackError> {
        let puts = self.stack.buckets().iter().flat_map(|bucket| bodies.iter().map(move |body| (bucket, body)));
        let puts: Vec<_> = puts.collect();
        stream::iter(puts)
            .map(|(bucket, (digest, body))| {
                let key = hex::encode(digest);
                let body = body.clone();
                async move {
                    bucket
                        .put(&key, &[("ct-format", "compressed_on_cpu")], body)
                        .await
                        .map_err(|error| StackError::Job(format!("a ciphertext could not be uploaded: {error}")))
                }
            })
            .buffer_unordered(UPLOADS)
            .try_collect()
            .await
    }

    /// Sends the decryption requests at the wanted rate, without waiting for blocks.
    pub(super) async fn send(&self, decryptions: &[(bool, Call)]) -> Result<(), StackError> {
        let pace = if self.args.rate > 0.0 { Pace::PerSecond(self.args.rate) } else { Pace::AtOnce };
        self.requester.submit_calls(decryptions, pace).await.map_err(chain_error)?;
        Ok(())
    }

    /// Looks after what was sent, for ever: an outage of the chain, or a transaction that its node dropped, must not end the load.
    pub(super) async fn keep_sent(&self) {
        loop {
            tokio::time::sleep(RESEND_INTERVAL).await;
            // A chain that does not answer is asked again; that nothing arrives is what the observer's patience is for.
            let _ = self.requester.sender().send_lost_again().await;
        }
    }
}

fn chain_error(error: crate::contracts::ContractsError) -> StackError {
    StackError::Contracts(error.to_string())
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
