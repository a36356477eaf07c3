"""Files that answer without regraft: ONNX, OpenVINO, torch.export, safetensors; each checked on the images of the run."""
