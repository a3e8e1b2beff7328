"""Vision servers that speak OpenAI's chat completions: vLLM, SGLang, llama.cpp, Ollama, LM Studio and others."""
