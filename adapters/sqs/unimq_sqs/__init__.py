"""The adapter for Amazon SQS and SNS, on boto3."""
