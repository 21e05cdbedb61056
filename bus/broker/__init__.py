"""The edge towards RabbitMQ: topology, publishing, consuming, and a private node to run it all on."""
