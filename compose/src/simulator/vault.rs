//! What survives a restart: keys, CRSs, the PRSS set-up, contexts and epochs; in a directory where one is configured.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use kms_proto::kms::v1::{CrsGenResult, KeyGenResult, MpcContext};
use prost::Message;

use super::engine::lock;
use super::error::SimulatorError;
use super::refusal::OperationId;

/// A kind of thing kept, and the name of its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shelf {
    /// Keys: [`StoredKey`].
    Keys,
    /// CRSs: [`StoredCrs`].
    Crs,
    /// The PRSS set-up of version 0.12: nothing.
    Prss,
    /// Contexts: [`MpcContext`], without nodes where they are this node's configured ones.
    Contexts,
    /// Epochs: [`StoredEpoch`].
    Epochs,
}

/// A key as it is kept.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredKey {
    /// The result of its generation or, where the node was not there then, of its resharing.
    #[prost(message, optional, tag = "1")]
    pub(super) result: Option<KeyGenResult>,
    /// The epochs that hold shares of it.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(super) epochs: Vec<Vec<u8>>,
}

/// A CRS as it is kept.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredCrs {
    /// The result of its generation or, where the node was not there then, of its carrying over.
    #[prost(message, optional, tag = "1")]
    pub(super) result: Option<CrsGenResult>,
    /// The epochs that have it.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(super) epochs: Vec<Vec<u8>>,
}

/// An epoch as it is kept.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredEpoch {
    /// Its context.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) context: Vec<u8>,
}

/// An item that is kept with the epochs that have it.
pub(super) trait OfEpochs: Message + Default {
    /// Where it is kept.
    const SHELF: Shelf;

    /// The epochs that have it.
    fn epochs(&mut self) -> &mut Vec<Vec<u8>>;
}

impl OfEpochs for StoredKey {
    const SHELF: Shelf = Shelf::Keys;

    fn epochs(&mut self) -> &mut Vec<Vec<u8>> {
        &mut self.epochs
    }
}

impl OfEpochs for StoredCrs {
    const SHELF: Shelf = Shelf::Crs;

    fn epochs(&mut self) -> &mut Vec<Vec<u8>> {
        &mut self.epochs
    }
}

impl Shelf {
    const ALL: [Self; 5] = [Self::Keys, Self::Crs, Self::Prss, Self::Contexts, Self::Epochs];

    fn directory(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Crs => "crs",
            Self::Prss => "prss",
            Self::Contexts => "contexts",
            Self::Epochs => "epochs",
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Vault {
    directory: Option<PathBuf>,
    items: Mutex<BTreeMap<(Shelf, OperationId), Vec<u8>>>,
}

impl Vault {
    /// Opens the directory, making it where it is missing, and reads all it holds.
    pub(super) async fn open(directory: Option<PathBuf>) -> Result<Self, SimulatorError> {
        let mut items = BTreeMap::new();
        if let Some(directory) = &directory {
            for shelf in Shelf::ALL {
                read_shelf(&directory.join(shelf.directory()), shelf, &mut items).await?;
            }
        }
        Ok(Self { directory, items: Mutex::new(items) })
    }

    /// Keeps an item; it is on disk when this returns.
    pub(super) async fn keep(&self, shelf: Shelf, id: OperationId, item: Vec<u8>) -> Result<(), String> {
        if let Some(directory) = &self.directory {
            let path = directory.join(shelf.directory()).join(id.to_string());
            write(&path, &item).await.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        }
        lock(&self.items).insert((shelf, id), item);
        Ok(())
    }

    /// Adds an epoch to an item, which is kept as `new` where it was not there before.
    pub(super) async fn add_to_epoch<M: OfEpochs>(
        &self,
        id: OperationId,
        epoch: OperationId,
        new: M,
    ) -> Result<(), String> {
        let mut item: M = self.item(M::SHELF, id).unwrap_or(new);
        let epoch = epoch.0.to_vec();
        if !item.epochs().contains(&epoch) {
            item.epochs().push(epoch);
        }
        self.keep(M::SHELF, id, item.encode_to_vec()).await
    }

    /// Takes everything out of an epoch; what is in no other is forgotten.
    pub(super) async fn purge<M: OfEpochs>(&self, epoch: OperationId) -> Result<(), String> {
        for (id, mut item) in self.items_on::<M>(M::SHELF) {
            let epochs = item.epochs().len();
            item.epochs().retain(|held| held.as_slice() != epoch.0.as_slice());
            if item.epochs().is_empty() {
                self.forget(M::SHELF, id).await?;
            } else if item.epochs().len() < epochs {
                self.keep(M::SHELF, id, item.encode_to_vec()).await?;
            }
        }
        Ok(())
    }

    /// Forgets an item.
    pub(super) async fn forget(&self, shelf: Shelf, id: OperationId) -> Result<(), String> {
        if let Some(directory) = &self.directory {
            let path = directory.join(shelf.directory()).join(id.to_string());
            let removed = tokio::fs::remove_file(&path).await;
            removed.map_err(|error| format!("cannot remove {}: {error}", path.display()))?;
        }
        lock(&self.items).remove(&(shelf, id));
        Ok(())
    }

    pub(super) fn holds(&self, shelf: Shelf, id: OperationId) -> bool {
        lock(&self.items).contains_key(&(shelf, id))
    }

    /// Ids of the items on a shelf.
    pub(super) fn ids(&self, shelf: Shelf) -> Vec<OperationId> {
        lock(&self.items).keys().filter(|(on, _)| *on == shelf).map(|(_, id)| *id).collect()
    }

    /// An item.
    pub(super) fn item<M: Message + Default>(&self, shelf: Shelf, id: OperationId) -> Option<M> {
        // What cannot be decoded was refused when it was read.
        lock(&self.items).get(&(shelf, id)).and_then(|item| M::decode(item.as_slice()).ok())
    }

    /// Every item of a shelf.
    pub(super) fn items_on<M: Message + Default>(&self, shelf: Shelf) -> Vec<(OperationId, M)> {
        let items = lock(&self.items);
        let on_shelf = items.iter().filter(|((on, _), _)| *on == shelf);
        on_shelf.filter_map(|((_, id), item)| Some((*id, M::decode(item.as_slice()).ok()?))).collect()
    }
}

async fn read_shelf(
    directory: &Path,
    shelf: Shelf,
    items: &mut BTreeMap<(Shelf, OperationId), Vec<u8>>,
) -> Result<(), SimulatorError> {
    let unusable = |path: &Path, why: String| SimulatorError::State { path: path.to_owned(), why };
    let failed = |error: std::io::Error| unusable(directory, error.to_string());
    tokio::fs::create_dir_all(directory).await.map_err(failed)?;
    let mut entries = tokio::fs::read_dir(directory).await.map_err(failed)?;
    while let Some(entry) = entries.next_entry().await.map_err(failed)? {
        let path = entry.path();
        // Left over from a write that was cut off: the operation never finished.
        if path.extension().is_some_and(|extension| extension == "tmp") {
            continue;
        }
        let id = super::config::parse_id(&entry.file_name().to_string_lossy()).map_err(|why| unusable(&path, why))?;
        let item = tokio::fs::read(&path).await.map_err(|error| unusable(&path, error.to_string()))?;
        let decodable = match shelf {
            Shelf::Keys => StoredKey::decode(item.as_slice()).map(drop),
            Shelf::Crs => StoredCrs::decode(item.as_slice()).map(drop),
            Shelf::Contexts => MpcContext::decode(item.as_slice()).map(drop),
            Shelf::Epochs => StoredEpoch::decode(item.as_slice()).map(drop),
            Shelf::Prss => Ok(()),
        };
        decodable.map_err(|error| unusable(&path, error.to_string()))?;
        items.insert((shelf, id), item);
    }
    Ok(())
}

/// Whole or not at all, so that a process killed in the middle leaves nothing half written.
async fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let unfinished = path.with_extension("tmp");
    tokio::fs::write(&unfinished, bytes).await?;
    tokio::fs::rename(&unfinished, path).await
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;

    use super::*;

    const ID: OperationId = OperationId(B256::repeat_byte(4));

    fn key() -> StoredKey {
        let result = KeyGenResult { request_id: Some(ID.message()), ..KeyGenResult::default() };
        StoredKey { result: Some(result), epochs: vec![] }
    }

    const FIRST: OperationId = OperationId(B256::repeat_byte(1));
    const SECOND: OperationId = OperationId(B256::repeat_byte(2));

    #[tokio::test]
    async fn what_is_in_several_epochs_is_forgotten_with_the_last_of_them() {
        let vault = Vault::open(None).await.unwrap();
        for epoch in [FIRST, SECOND, SECOND] {
            vault.add_to_epoch(ID, epoch, key()).await.unwrap();
        }
        vault.purge::<StoredKey>(FIRST).await.unwrap();
        assert_eq!(vault.item::<StoredKey>(Shelf::Keys, ID).unwrap().epochs, [SECOND.0.to_vec()]);
        vault.purge::<StoredKey>(SECOND).await.unwrap();
        assert!(!vault.holds(Shelf::Keys, ID));
    }

    #[tokio::test]
    async fn what_is_kept_is_there_when_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let vault = Vault::open(Some(directory.path().to_owned())).await.unwrap();
        vault.add_to_epoch(ID, FIRST, key()).await.unwrap();
        vault.keep(Shelf::Contexts, ID, vec![]).await.unwrap();
        vault.forget(Shelf::Contexts, ID).await.unwrap();
        let again = Vault::open(Some(directory.path().to_owned())).await.unwrap();
        assert_eq!(again.items_on::<StoredKey>(Shelf::Keys).len(), 1);
        assert!(again.holds(Shelf::Keys, ID));
        assert!(!again.holds(Shelf::Contexts, ID));
    }

    #[tokio::test]
    async fn a_damaged_file_is_named_and_an_unfinished_one_is_skipped() {
        let directory = tempfile::tempdir().unwrap();
        Vault::open(Some(directory.path().to_owned())).await.unwrap();
        let keys = directory.path().join("keys");
        std::fs::write(keys.join(ID.to_string()).with_extension("tmp"), b"half").unwrap();
        assert!(Vault::open(Some(directory.path().to_owned())).await.is_ok());
        std::fs::write(keys.join(ID.to_string()), b"\xff\xff").unwrap();
        let Err(SimulatorError::State { path, .. }) = Vault::open(Some(directory.path().to_owned())).await else {
            panic!("a damaged file was taken")
        };
        assert!(path.ends_with(ID.to_string()));
    }
}
