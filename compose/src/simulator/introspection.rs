//! The introspection service: what the result stores hold, with the real text of failures.

use std::sync::{Arc, Mutex};

use kms_proto::kms::v1::Empty;
use kms_proto::meta_store_status_service_server::MetaStoreStatusService;
use kms_proto::metastore_status::v1::{
    GetMetaStoreInfoResponse, GetRequestStatusesRequest, GetRequestStatusesResponse, ListRequestsRequest,
    ListRequestsResponse, MetaStoreInfo, MetaStoreType, RequestProcessingStatus, RequestStatusInfo,
};
use tonic::{Request, Response, Status};

use super::config::parse_id;
use super::engine::{Engine, Life, lock};
use super::refusal::{OperationId, Refusal};
use super::service::Service;
use super::store::{State, Store};

/// Page size where a request names none.
const PAGE: usize = 100;
/// Greatest page.
const GREATEST_PAGE: usize = 1000;

/// The stores that the service shows.
const STORES: [MetaStoreType; 5] = [
    MetaStoreType::KeyGeneration,
    MetaStoreType::PublicDecryption,
    MetaStoreType::UserDecryption,
    MetaStoreType::CrsGeneration,
    MetaStoreType::Preprocessing,
];

#[tonic::async_trait]
impl MetaStoreStatusService for Service {
    async fn get_request_statuses(
        &self,
        request: Request<GetRequestStatusesRequest>,
    ) -> Result<Response<GetRequestStatusesResponse>, Status> {
        let work = |engine: Arc<Engine>, message| async move { statuses(&engine, &message) };
        self.call("GetRequestStatuses", request, work).await
    }

    async fn list_requests(
        &self,
        request: Request<ListRequestsRequest>,
    ) -> Result<Response<ListRequestsResponse>, Status> {
        let work = |engine: Arc<Engine>, message| async move { page(&engine, &message) };
        self.call("ListRequests", request, work).await
    }

    async fn get_meta_store_info(&self, request: Request<Empty>) -> Result<Response<GetMetaStoreInfoResponse>, Status> {
        let work = |engine: Arc<Engine>, _| async move { Ok(info(&engine)) };
        self.call("GetMetaStoreInfo", request, work).await
    }
}

fn statuses(engine: &Engine, request: &GetRequestStatusesRequest) -> Result<GetRequestStatusesResponse, Refusal> {
    let life = engine.life();
    let stores = stores(request.meta_store_type.unwrap_or_default())?;
    let ids = request.request_ids.iter().map(|text| parse_id(text).map_err(Refusal::invalid));
    let ids: Vec<_> = ids.collect::<Result<_, _>>()?;
    let mut statuses = vec![];
    for &store in &stores {
        let held = entries(&life, store);
        let asked = held.into_iter().filter(|entry| ids.iter().any(|id| id.to_string() == entry.request_id));
        statuses.extend(asked);
    }
    Ok(GetRequestStatusesResponse { statuses })
}

fn page(engine: &Engine, request: &ListRequestsRequest) -> Result<ListRequestsResponse, Refusal> {
    let life = engine.life();
    let stores = stores(request.meta_store_type)?;
    let filter = request.status_filter();
    let start = match request.page_token.as_deref() {
        None | Some("") => 0,
        Some(token) => token.parse().map_err(|_| Refusal::invalid("the page token is not one of ours"))?,
    };
    let size = request.max_results.map_or(PAGE, |size| usize::try_from(size).unwrap_or(0)).clamp(1, GREATEST_PAGE);
    let any = request.status_filter.is_none() || filter == RequestProcessingStatus::Any;
    let all = stores.into_iter().flat_map(|store| entries(&life, store));
    let mut matching = all.filter(|entry| any || entry.status() == filter).skip(start);
    let requests: Vec<_> = matching.by_ref().take(size).collect();
    let next_page_token = matching.next().map(|_| (start + size).to_string());
    Ok(ListRequestsResponse { requests, next_page_token })
}

fn info(engine: &Engine) -> GetMetaStoreInfoResponse {
    let life = engine.life();
    fn of<T>(store: &Mutex<Store<T>>) -> (usize, Option<usize>) {
        let store = lock(store);
        (store.len(), store.capacity())
    }
    let one = |kind: MetaStoreType| {
        let (count, capacity) = match kind {
            MetaStoreType::KeyGeneration => of(&life.keys),
            MetaStoreType::PublicDecryption => of(&life.public_decryptions),
            MetaStoreType::UserDecryption => of(&life.user_decryptions),
            MetaStoreType::CrsGeneration => of(&life.crs),
            MetaStoreType::Preprocessing | MetaStoreType::All => of(&life.preprocessings),
        };
        let number = |count| i32::try_from(count).unwrap_or(i32::MAX);
        MetaStoreInfo { r#type: kind.into(), capacity: capacity.map_or(i32::MAX, number), current_count: number(count) }
    };
    GetMetaStoreInfoResponse { meta_stores: STORES.map(one).into() }
}

/// The stores that a number stands for.
fn stores(number: i32) -> Result<Vec<MetaStoreType>, Refusal> {
    match MetaStoreType::try_from(number) {
        Ok(MetaStoreType::All) => Ok(STORES.into()),
        Ok(store) => Ok(vec![store]),
        Err(_) => Err(Refusal::invalid(format!("there is no store {number}"))),
    }
}

/// All that a store holds.
fn entries(life: &Life, kind: MetaStoreType) -> Vec<RequestStatusInfo> {
    match kind {
        MetaStoreType::KeyGeneration => entries_of(&life.keys, kind),
        MetaStoreType::PublicDecryption => entries_of(&life.public_decryptions, kind),
        MetaStoreType::UserDecryption => entries_of(&life.user_decryptions, kind),
        MetaStoreType::CrsGeneration => entries_of(&life.crs, kind),
        MetaStoreType::Preprocessing | MetaStoreType::All => entries_of(&life.preprocessings, kind),
    }
}

fn entries_of<T>(store: &Mutex<Store<T>>, kind: MetaStoreType) -> Vec<RequestStatusInfo> {
    let status = |state: &State<T>| match state {
        State::Pending => (RequestProcessingStatus::Processing, None),
        State::Done(_) => (RequestProcessingStatus::Completed, None),
        State::Failed(why) => (RequestProcessingStatus::Failed, Some(why.to_string())),
        State::Deleted => (RequestProcessingStatus::Deleted, None),
    };
    let held = lock(store).list();
    let entry = |(id, state): (OperationId, State<T>)| {
        let (status, error_message) = status(&state);
        RequestStatusInfo {
            request_id: id.to_string(),
            meta_store_type: kind.into(),
            status: status.into(),
            error_message,
        }
    };
    held.into_iter().map(entry).collect()
}
