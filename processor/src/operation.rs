//! The operations of generation (a), one type each: which calls they make and with what.

use std::time::Duration;

use kms_proto::kms::v1 as core;
use kms_proto::kms_service::v1::core_service_endpoint_client::CoreServiceEndpointClient;
use kms_schemas::identity::RequestId;
use kms_schemas::record::CiphertextMaterial;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::ciphertext::{BUCKETS, CiphertextStore};
use crate::coprocessors::REGISTRY;
use crate::core::Operation;
use crate::core_request;
use crate::error::Trouble;

type Client = CoreServiceEndpointClient<Channel>;

fn with_timeout<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

/// `PublicDecrypt`.
#[derive(Debug)]
pub struct PublicDecryption<'a> {
    /// Decryption id.
    pub id: RequestId,
    /// Ciphertexts in request order.
    pub materials: &'a [CiphertextMaterial],
    /// `extraData` of the event.
    pub extra_data: &'a [u8],
    /// Domain of the Decryption contract.
    pub domain: core::Eip712DomainMsg,
    /// Where the ciphertexts come from.
    pub store: &'a CiphertextStore,
}

impl Operation for PublicDecryption<'_> {
    type Result = core::PublicDecryptionResponse;
    const NAME: &'static str = "public_decrypt";
    const NEEDS: &'static [&'static str] = &[BUCKETS, REGISTRY];

    fn id(&self) -> RequestId {
        self.id
    }

    async fn start(&self, mut client: Client, timeout: Duration) -> Result<Result<(), Status>, Trouble> {
        let fetched = self.store.fetch(self.materials).await?;
        let message = core_request::public_decryption(
            self.id,
            self.materials,
            &fetched.ciphertexts,
            self.extra_data,
            self.domain.clone(),
        )?;
        Ok(client.public_decrypt(with_timeout(message, timeout)).await.map(drop))
    }

    async fn get(
        &self,
        mut client: Client,
        request: Request<core::RequestId>,
    ) -> Result<Response<Self::Result>, Status> {
        client.get_public_decryption_result(request).await
    }
}

/// `UserDecrypt`, direct or delegated.
#[derive(Debug)]
pub struct UserDecryption<'a> {
    /// Decryption id.
    pub id: RequestId,
    /// Ciphertexts in request order.
    pub materials: &'a [CiphertextMaterial],
    /// User, or delegate.
    pub user: alloy::primitives::Address,
    /// The user's public key.
    pub public_key: &'a [u8],
    /// `extraData` of the event.
    pub extra_data: &'a [u8],
    /// Domain of the Decryption contract.
    pub domain: core::Eip712DomainMsg,
    /// Where the ciphertexts come from.
    pub store: &'a CiphertextStore,
}

impl Operation for UserDecryption<'_> {
    type Result = core::UserDecryptionResponse;
    const NAME: &'static str = "user_decrypt";
    const NEEDS: &'static [&'static str] = &[BUCKETS, REGISTRY];

    fn id(&self) -> RequestId {
        self.id
    }

    async fn start(&self, mut client: Client, timeout: Duration) -> Result<Result<(), Status>, Trouble> {
        let fetched = self.store.fetch(self.materials).await?;
        let message = core_request::user_decryption(
            self.id,
            self.materials,
            &fetched.ciphertexts,
            self.user,
            self.public_key,
            self.extra_data,
            self.domain.clone(),
        )?;
        Ok(client.user_decrypt(with_timeout(message, timeout)).await.map(drop))
    }

    async fn get(
        &self,
        mut client: Client,
        request: Request<core::RequestId>,
    ) -> Result<Response<Self::Result>, Status> {
        client.get_user_decryption_result(request).await
    }
}

/// `KeyGenPreproc`.
#[derive(Debug)]
pub struct PrepKeygen {
    /// Preprocessing id.
    pub id: RequestId,
    /// The core's message.
    pub message: core::KeyGenPreprocRequest,
}

impl Operation for PrepKeygen {
    type Result = core::KeyGenPreprocResult;
    const NAME: &'static str = "key_gen_preproc";

    fn id(&self) -> RequestId {
        self.id
    }

    async fn start(&self, mut client: Client, timeout: Duration) -> Result<Result<(), Status>, Trouble> {
        Ok(client.key_gen_preproc(with_timeout(self.message.clone(), timeout)).await.map(drop))
    }

    async fn get(
        &self,
        mut client: Client,
        request: Request<core::RequestId>,
    ) -> Result<Response<Self::Result>, Status> {
        client.get_key_gen_preproc_result(request).await
    }
}

/// `KeyGen`.
#[derive(Debug)]
pub struct Keygen {
    /// Key id.
    pub id: RequestId,
    /// Preprocessing to consume; picks the shard, since only the core that made it has it.
    pub prep_keygen_id: RequestId,
    /// The core's message.
    pub message: core::KeyGenRequest,
}

impl Operation for Keygen {
    type Result = core::KeyGenResult;
    const NAME: &'static str = "key_gen";
    const WAITS_FOR_PREPROCESSING: bool = true;

    fn id(&self) -> RequestId {
        self.id
    }

    fn shard_id(&self) -> RequestId {
        self.prep_keygen_id
    }

    async fn start(&self, mut client: Client, timeout: Duration) -> Result<Result<(), Status>, Trouble> {
        Ok(client.key_gen(with_timeout(self.message.clone(), timeout)).await.map(drop))
    }

    async fn get(
        &self,
        mut client: Client,
        request: Request<core::RequestId>,
    ) -> Result<Response<Self::Result>, Status> {
        client.get_key_gen_result(request).await
    }
}

/// `CrsGen`.
#[derive(Debug)]
pub struct Crsgen {
    /// CRS id.
    pub id: RequestId,
    /// The core's message.
    pub message: core::CrsGenRequest,
}

impl Operation for Crsgen {
    type Result = core::CrsGenResult;
    const NAME: &'static str = "crs_gen";

    fn id(&self) -> RequestId {
        self.id
    }

    async fn start(&self, mut client: Client, timeout: Duration) -> Result<Result<(), Status>, Trouble> {
        Ok(client.crs_gen(with_timeout(self.message.clone(), timeout)).await.map(drop))
    }

    async fn get(
        &self,
        mut client: Client,
        request: Request<core::RequestId>,
    ) -> Result<Response<Self::Result>, Status> {
        client.get_crs_gen_result(request).await
    }
}

/// `InitiateResharing`. A repeated start answers `INTERNAL`, so the result is asked for first.
#[derive(Debug)]
pub struct KeyReshare {
    /// Reshare id.
    pub id: RequestId,
    /// Preprocessing of the key; picks the shard that holds the key.
    pub prep_keygen_id: RequestId,
    /// The core's message.
    pub message: core::InitiateResharingRequest,
}

impl Operation for KeyReshare {
    type Result = core::ResharingResultResponse;
    const NAME: &'static str = "initiate_resharing";
    const GET_FIRST: bool = true;

    fn id(&self) -> RequestId {
        self.id
    }

    fn shard_id(&self) -> RequestId {
        self.prep_keygen_id
    }

    async fn start(&self, mut client: Client, timeout: Duration) -> Result<Result<(), Status>, Trouble> {
        Ok(client.initiate_resharing(with_timeout(self.message.clone(), timeout)).await.map(drop))
    }

    async fn get(
        &self,
        mut client: Client,
        request: Request<core::RequestId>,
    ) -> Result<Response<Self::Result>, Status> {
        client.get_resharing_result(request).await
    }
}
