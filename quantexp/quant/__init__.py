"""The methods: a file each says what is lowered, `flows/` says with which API."""
