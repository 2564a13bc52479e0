//! Follows a chain's contracts and publishes their requests with the cursor in one transaction.
