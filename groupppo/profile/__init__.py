"""What an endpoint-sparse update costs at real model shapes: counted from shapes, and measured where a model fits."""
