"""What functional, contract and services tests are made of: a cloud, the service in two shapes, a client, training scripts."""
