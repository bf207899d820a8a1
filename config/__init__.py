"""Settings: YAML files and the environment read with clear errors, and files that are watched for changes."""
