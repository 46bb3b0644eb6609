"""TensorFlow Serving's REST calls. What is sent and answered: docs/how-to/tensorflow-serving-clients.md."""
