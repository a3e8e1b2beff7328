"""The export formats of trainers and labelling tools: conversations, YOLO, Label Studio, FiftyOne and kohya."""
